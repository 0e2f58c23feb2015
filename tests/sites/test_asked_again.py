"""What a link that broke asks again while it is being done, or when it is: it is done once, and has one answer."""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from functools import partial

import pytest

from proxyfab.buffers import Frames
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.link.doors import knock
from proxyfab.link.identity import Identity
from proxyfab.link.line import Line
from proxyfab.link.peering import Options, Peering
from proxyfab.link.session import Want
from proxyfab.server import abroad
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways, listens

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
SECRET = bytes(range(32))
STAGED = ["nersc", "run", "0123456789ab"]
VALUE = b"what nersc wants to be put at aps"


@pytest.fixture(scope="module")
def aps() -> Iterator[Gateways]:
    public = ed25519.Ed25519PrivateKey.from_private_bytes(SECRET).public_key().public_bytes_raw()
    peer = ["--peer", f"nersc=#{b64encode(public).decode()},may=all"]
    with Gateways("aps", "alcf", each={"aps": peer}) as sites:
        yield sites


@pytest.fixture
def store(aps: Gateways) -> Iterator[Store]:
    with Store(aps.url("aps"), cache=0) as store:
        yield store


class Nersc:
    """A site that hands out one object, as soon as it may."""

    def __init__(self, aps: Gateways) -> None:
        self.may = threading.Event()
        self.given = 0
        server = aps.servers["aps"]
        known = {"aps": Keyring(server.environment["PROXYFAB_KEYS"]).verifying("aps")}
        dial = partial(knock, Identity("nersc", SECRET, known), "aps", listens(server), timeout=10)
        self.peering = Peering("nersc", "aps", self._asked, knock=dial, options=Options(streams=1))
        self.peering.start()

    def _asked(self, line: Line, wants: list[Want]) -> None:
        assert self.may.wait(30)
        self.given += len(wants)
        line.give_many([(want, abroad.with_life(Frames([VALUE]), None)) for want in wants])


@pytest.fixture
def nersc(aps: Gateways) -> Iterator[Nersc]:
    nersc = Nersc(aps)
    yield nersc
    nersc.may.set()
    nersc.peering.close()


def home_of(key: Key) -> abroad.Home:
    return abroad.Home(*key.where.split("/"))


def test_a_put_is_done_once(store: Store, nersc: Nersc) -> None:
    key = Key("new", store.connector.reserve().where)
    take = abroad.take(home_of(key), key.id, [*STAGED, "staged"], {"ttl": None, "replace": False}, 20.0)
    threading.Timer(0.05, nersc.may.set).start()
    assert [outcome.why for outcome in nersc.peering.get_many([take, take], 20)] == ["", ""]
    assert nersc.given == 1
    assert store.connector.get(key) == Frames([VALUE])
    assert store.connector.evict(key)
    assert [outcome.why for outcome in nersc.peering.get_many([take], 20)] == [""]
    assert not store.connector.exists(key), "its answer was lost, and nothing else"


def test_what_failed_is_tried_again(store: Store, nersc: Nersc) -> None:
    nersc.may.set()
    key = store.put(b"is there")
    take = abroad.take(home_of(key), key.id, [*STAGED, "again"], {"ttl": None, "replace": False}, 20.0)
    assert {outcome.kind for outcome in nersc.peering.get_many([take, take], 20)} == {"KeyExists"}
    assert store.evict(key)
    assert [outcome.why for outcome in nersc.peering.get_many([take], 20)] == [""]
    assert store.connector.get(key) == Frames([VALUE])


def test_an_evict_says_what_it_did(store: Store, nersc: Nersc) -> None:
    key = store.put(b"is there")
    first, second = (abroad.do(home_of(key), "evict", [key.id], {"request": os.urandom(16)}) for _ in range(2))
    said = [outcome.frames for outcome in nersc.peering.get_many([first, first, second, first], 20)]
    assert [abroad.unpacked(frames)["found"] for frames in said if frames] == [[True], [True], [False], [True]]
