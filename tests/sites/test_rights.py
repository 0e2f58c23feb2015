"""What a site may do at another one: what was not granted is refused there, and the refusal says how it is granted."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest

from proxyfab.cli.doctor_site import examine_peer
from proxyfab.cli.gateway import neighbour
from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.keyring import Keyring
from proxyfab.patterns.future import Future
from proxyfab.server import abroad
from proxyfab.server.abroad import Home
from proxyfab.server.options import RIGHTS
from proxyfab.server.rights import check, described
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways

pytest.importorskip("cryptography")
KEY = b64encode(bytes(32)).decode()
MINE, OTHERS = Home("aps", "run", "0123456789ab"), Home("nersc", "run", "0123456789ab")
QUESTIONS = {
    "read": [
        abroad.get(MINE, "x"),
        abroad.wait(MINE, ["x"], 1.0),
        abroad.do(MINE, "exists", ["x"], {}),
        abroad.do(MINE, "stat", ["x"], {}),
    ],
    "copies": [abroad.get(OTHERS, "x")],
    "put": [abroad.take(MINE, "x", ["alcf", "a", "b", "c"], {}, 1.0)],
    "evict": [abroad.do(MINE, "evict", ["x"], {}), abroad.do(MINE, "renew", ["x"], {})],
    "push": [abroad.fetch(OTHERS, ["x"], 1.0), abroad.fetch(MINE, ["x"], 1.0)],
}


@pytest.mark.parametrize("right", RIGHTS)
def test_each_question_takes_one_right(right: str) -> None:
    without = neighbour(f"alcf=#{KEY},may={'+'.join(each for each in RIGHTS if each != right)}")
    for key in QUESTIONS[right]:
        check(abroad.read(key), "aps", neighbour(f"alcf=#{KEY},may={right}"))
        with pytest.raises(AccessDenied, match=rf"no right to '{right}' at site aps.*--peer alcf=\.\.\.,may=.*{right}"):
            check(abroad.read(key), "aps", without)


def test_without_a_word_to_read_and_nothing_else() -> None:
    assert described(neighbour(f"alcf=#{KEY}")) == "read"
    assert described(neighbour(f"alcf=h:1#{KEY},may=all,in=b+a")) == "read, copies, put, evict, push in a, b only"


@pytest.mark.parametrize("words", ["may=", "may=all+read", "may=write", "in=", "in=../x", "in=a/b", "x=1", ""])
def test_words_that_grant_nothing(words: str) -> None:
    with pytest.raises(ConfigurationError, match=r"may=read\+copies\+put\+evict\+push"):
        neighbour(f"alcf=#{KEY},{words}")


@pytest.fixture(scope="module")
def sites() -> Iterator[Gateways]:
    with Gateways("aps", "alcf", may="read+put,in=run") as gateways:
        yield gateways


def refused(act: Callable[[], object], why: str) -> None:
    with pytest.raises(AccessDenied, match=why):
        act()


def test_what_was_not_granted_does_not_happen(sites: Gateways) -> None:
    with Store(sites.url("aps") + "&ns=run", cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
        value = os.urandom(100_000)
        key = aps.put(value)
        assert alcf.get(key) == value
        refused(lambda: alcf.evict(key), r"no right to 'evict' .* --peer alcf=\.\.\.,may=read\+put\+evict")
        refused(lambda: alcf.connector.renew(key, 0.001), "no right to 'evict'")  # type: ignore[attr-defined]  # it can
        refused(lambda: aps.push(key, to="alcf"), "Site aps has no right to 'push' at site alcf")
        assert aps.get(key) == value
        assert alcf.get(key) == value
        future: Future[str] = Future(aps)
        assert alcf.put("set", key=future.key) == future.key
        assert aps.get(future.key) == "set"


def test_other_namespaces_are_closed_for_everything(sites: Gateways) -> None:
    with Store(sites.url("aps") + "&ns=other", cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
        key, free = aps.put(b"secret" * 1000), aps.reserve()
        no = "no right to the namespace 'other' of site aps, but to run: its gateway grants it by --peer alcf=.*in="
        refused(lambda: alcf.get(key), no)
        refused(lambda: alcf.exists(key), no)
        refused(lambda: alcf.connector.stat(key), no)
        refused(lambda: alcf.connector.wait(free, 1.0), no)  # type: ignore[attr-defined]  # it can
        refused(lambda: alcf.put(b"foreign" * 1000, key=free), no)
        assert not aps.exists(free)


def test_the_doctor_shows_what_either_may_do(sites: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    aps, alcf = sites.servers["aps"], sites.servers["alcf"]
    monkeypatch.setenv("PROXYFAB_KEYS", alcf.environment["PROXYFAB_KEYS"])
    key = b64encode(Keyring(aps.environment["PROXYFAB_KEYS"]).verifying("aps")).decode()
    found = {each.check: each.detail for each in examine_peer("alcf", f"aps={aps.ready['listen']}#{key},may=all", [])}
    assert found["rights"].endswith("read, copies, put, evict, push")
    assert found["direct: key"].endswith("; what we may do there: read, put in run only")
