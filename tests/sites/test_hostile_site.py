"""A site that is known and talks nonsense, or wants what is not its business: it gets errors, and nothing happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError
from proxyfab.keyring import Keyring
from proxyfab.link.doors import knock
from proxyfab.link.identity import Identity
from proxyfab.link.peering import Options, Peering
from proxyfab.server import abroad
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways, listens

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
WORDS = st.sampled_from(["get", "do", "wait", "fetch", "take", "evict", "from", "aps", "", "a/b", "x" * 300])
PLAIN = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | WORDS | st.binary(max_size=4)
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=20
)


@given(ANYTHING)
def test_whatever_comes_is_a_question_or_an_error(key: Any) -> None:
    try:
        question = abroad.read(key)
        names = question.names("aps")
        assert len(names) == len(question.ids)
    except IntegrityError:
        pass


@given(ANYTHING)
def test_whatever_is_answered_is_read_or_refused(value: Any) -> None:
    from msgpack import packb

    for frames in (Frames([packb(value)]), Frames([str(value).encode()])):
        try:
            assert isinstance(abroad.unpacked(frames), dict)
        except IntegrityError:
            pass
        try:
            abroad.without_life(frames)
        except IntegrityError:
            pass


@pytest.mark.parametrize("id", ["", "x" * 201, "x" * 60_000])
def test_ids_are_as_short_as_those_of_clients(id: str) -> None:
    home = abroad.Home("aps", "run", "0123456789ab")
    asked = [abroad.get(home, id), abroad.wait(home, ["x", id], 1.0), abroad.take(home, id, ["a"] * 4, {}, 1.0)]
    for key in [*asked, abroad.do(home, "evict", [id], {}), abroad.fetch(home, [id], 1.0)]:
        with pytest.raises(IntegrityError):
            abroad.read(key)


def test_namespaces() -> None:
    assert abroad.home_of("plain") is None
    assert abroad.home_of("a/b/c") == abroad.Home("a", "b", "c")
    for text in ("/", "a/b", "a//c", "../up", "a/b/c/d"):
        with pytest.raises(ConfigurationError):
            abroad.home_of(text)


@pytest.fixture
def peering(sites: Gateways, secret: bytes, tmp_path: Any) -> Iterator[Peering]:
    """A link to site aps, of a site called nersc."""
    server = sites.servers["aps"]
    ring = Keyring(server.environment["PROXYFAB_KEYS"])
    identity = Identity("nersc", secret, {"aps": ring.verifying("aps")})
    dial = partial(knock, identity, "aps", listens(server), timeout=10)
    peering = Peering("nersc", "aps", lambda line, wants: None, knock=dial, options=Options(streams=1))
    peering.start()
    yield peering
    peering.close()


@pytest.fixture(scope="module")
def secret() -> bytes:
    return os.urandom(32)


@pytest.fixture(scope="module")
def sites(secret: bytes) -> Iterator[Gateways]:
    from base64 import b64encode

    public = ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    peer = ["--peer", f"nersc=#{b64encode(public).decode()},may=all"]
    with Gateways("aps", "alcf", each={"aps": peer}) as gateways:
        yield gateways


def test_a_known_site_has_no_business_with_others(sites: Gateways, peering: Peering) -> None:
    with Store(sites.url("aps"), cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
        key, there = aps.put(os.urandom(100_000)), alcf.put(os.urandom(100_000))
        _, namespace, incarnation = key.where.split("/")
        far = there.where.split("/")
        asked: list[Any] = [
            ["do", "nersc", namespace, incarnation, [key.id], "evict", {}],  # its own name, in another's place
            ["do", "aps", there.where, incarnation, [there.id], "evict", {}],  # through here to a third site
            ["do", *far, [there.id], "evict", {}],
            ["do", "aps", namespace, incarnation, [key.id], "clear", {}],  # a verb that is not for others
            ["do", "aps", namespace, incarnation, [key.id], "evict", {"ns": "x", "ids": 7}],
            ["take", *far, [there.id], 5.0, {"from": ["nersc", "a", "b", "c"]}],
            ["take", "aps", namespace, incarnation, ["new"], 1.0, {}],
            ["wait", "aps", namespace, "0123456789ab", [key.id], 1.0],
            ["get", *far, there.id, []],  # no copy is here, so there is none
            ["get"],
            None,
            {"get": 1},
        ]
        kinds = [outcome.kind for outcome in peering.get_many(asked, 30)]
        assert kinds[:4] == ["IntegrityError"] * 4
        assert kinds[5:8] == ["IntegrityError", "IntegrityError", "ObjectLost"]
        assert kinds[8] == ""
        assert kinds[9:] == ["IntegrityError"] * 3
        assert aps.get(key) is None  # the fifth was one's good right: `ns` and `ids` of the fields count for nothing
        assert alcf.get(there) is not None
