"""Links that break and come again, over TLS through a cable that is cut: what was asked ends, and is not sent twice."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, ProxyfabError, ResolveTimeout
from proxyfab.link.doors import Hello, knock
from proxyfab.link.identity import Identity
from proxyfab.link.line import Line
from proxyfab.link.listening import Greeter, Listener
from proxyfab.link.peering import Options, Peering
from proxyfab.link.question import Outcome
from proxyfab.testing.cable import Cable
from proxyfab.testing.processes import at_once, until

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
MB = 1_000_000


class Two:
    """Two sites in one process: `aps` has objects and listens, `alcf` dials through a cable and asks."""

    def __init__(self, *, streams: int = 3, both: bool = False, patience: float = 5.0) -> None:
        secrets = {name: os.urandom(32) for name in ("aps", "alcf")}
        public = {
            name: ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            for name, secret in secrets.items()
        }
        self.objects: dict[str, bytes] = {}
        self.ids = {
            name: Identity(name, secrets[name], {other: public[other] for other in secrets if other != name})
            for name in secrets
        }
        self.options = Options(streams=streams)
        self.patience = patience
        self.listeners = {
            name: Listener(Greeter(self.ids[name], partial(self._take, name)), ("127.0.0.1", 0))
            for name in ("aps", "alcf")
        }
        self.cables = {name: Cable("{}:{}".format(*each.address)) for name, each in self.listeners.items()}
        self.sites = {
            "aps": self.peering("aps", "alcf", dials=both),
            "alcf": self.peering("alcf", "aps", dials=True),
        }
        for each in self.sites.values():
            each.start()
        self.cable = self.cables["aps"]

    def peering(self, name: str, other: str, *, dials: bool) -> Peering:
        host, port = self.cables[other].address.rsplit(":", 1)
        dial = partial(knock, self.ids[name], other, (host, int(port)), timeout=self.patience) if dials else None
        return Peering(name, other, self._asked, knock=dial, options=self.options)

    def _take(self, name: str, connection: ssl.SSLSocket, hello: Hello) -> None:
        self.sites[name].take(connection, hello)

    def _asked(self, line: Line, wants: Any) -> None:
        for want in wants:
            found = self.objects.get(want.key)
            line.give(want, None if found is None else Frames([found]))

    def forget(self) -> int:
        """The site that has the objects is started anew; returns what it had sent until then."""
        old = self.sites["aps"]
        self.sites["aps"] = self.peering("aps", "alcf", dials=False)
        old.close()
        return old.figures["sent"]

    def close(self) -> None:
        ends: list[Peering | Listener | Cable] = [*self.sites.values(), *self.listeners.values(), *self.cables.values()]
        for each in ends:
            each.close()


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    two.close()


def whole(two: Two, key: str, outcome: Outcome) -> bool:
    return outcome.frames is not None and outcome.frames.tobytes() == two.objects[key]


def asking(two: Two, keys: list[str], timeout: float = 60.0) -> tuple[threading.Thread, list[Any]]:
    """Ask in a thread; its answers are in the list when it has ended."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.extend(two.sites["alcf"].get_many(keys, timeout))
        except ProxyfabError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def test_a_link_is_dialled_with_all_its_streams_and_again_when_they_break(two: Two) -> None:
    alcf = two.sites["alcf"]
    two.objects["x"] = b"1"
    assert alcf.get_many(["x", "y"], 30) == [Outcome(Frames([b"1"])), Outcome(None)]
    assert until(lambda: alcf.streams == 3)
    two.cable.reset()
    assert until(lambda: two.cable.connections >= 6)
    assert alcf.get_many(["x"], 30)[0].frames == Frames([b"1"])
    assert until(lambda: alcf.streams == 3)
    assert alcf.links == 1  # the same one: nothing was forgotten


def test_the_listening_side_asks_over_the_streams_of_who_dialled(two: Two) -> None:
    two.objects["x"] = os.urandom(MB)
    assert whole(two, "x", two.sites["aps"].get_many(["x"], 30)[0])


def test_a_cut_amid_a_transfer_sends_again_only_what_was_under_way(two: Two) -> None:
    two.objects["large"] = os.urandom(16 * MB)
    thread, answers = asking(two, ["large"])
    assert two.cable.moved(5 * MB)
    two.cable.cut()
    assert until(lambda: two.sites["alcf"].streams == 0)
    two.cable.heal()
    thread.join(60)
    assert whole(two, "large", answers[0])
    assert two.sites["alcf"].figures["doubled"] == 0
    assert two.sites["alcf"].links == 1


def test_a_site_that_forgot_everything_is_asked_for_the_rest_only(two: Two) -> None:
    two.objects["large"] = os.urandom(16 * MB)
    two.cable.limit(20 * MB, "down")
    thread, answers = asking(two, ["large"])
    assert two.cable.moved(8 * MB)
    before = two.forget()
    assert before > 4 * MB
    thread.join(60)
    assert whole(two, "large", answers[0])
    figures = two.sites["alcf"].figures
    assert two.sites["alcf"].links == 2
    assert figures["doubled"] == 0
    assert figures["received"] == 16 * MB  # each byte of it once, over two links
    assert two.sites["aps"].figures["sent"] < 12.5 * MB


@pytest.mark.parametrize("nbytes", [12 * MB, 4 * MB])
def test_an_object_that_is_another_one_after_that_is_fetched_anew(two: Two, nbytes: int) -> None:
    two.objects["large"] = os.urandom(12 * MB)
    two.cable.limit(20 * MB, "down")
    thread, answers = asking(two, ["large"])
    assert two.cable.moved(5 * MB)
    two.cable.cut()
    two.objects["large"] = os.urandom(nbytes)
    two.forget()
    two.cable.heal()
    thread.join(60)
    assert whole(two, "large", answers[0])


def test_two_sites_that_dial_one_another_end_with_one_link() -> None:
    two = Two(both=True)
    try:
        two.objects["x"] = os.urandom(2 * MB)
        for name in ("aps", "alcf"):
            assert whole(two, "x", two.sites[name].get_many(["x"], 30)[0])
        assert until(lambda: [site.streams for site in two.sites.values()] == [3, 3])
        assert two.sites["aps"]._link == two.sites["alcf"]._link
    finally:
        two.close()


def test_a_link_that_is_closed_says_so_to_all_who_wait() -> None:
    two = Two(patience=0.5)
    try:
        two.cable.black_hole()
        thread, answers = asking(two, ["x"])
        assert until(lambda: two.sites["alcf"]._line._open)
        two.sites["alcf"].close()
        thread.join(10)
        assert isinstance(answers[0].error(), ConnectorError)
        assert isinstance(two.sites["alcf"].get_many(["x"], 1)[0].error(), ConnectorError)
    finally:
        two.close()


def random_cuts(two: Two, seed: int, cuts: int) -> tuple[int, int]:
    """Break the cable at random moments while some threads ask; returns how many asked well, and how many in vain."""
    choice = random.Random(seed)
    two.objects = {str(number): os.urandom(choice.choice([0, 1000, 70_000, MB, 6 * MB])) for number in range(20)}
    done = threading.Event()
    well, late = [0], [0]

    def ask(number: int) -> None:
        mine = random.Random(seed * 100 + number)
        while not done.is_set():
            keys = mine.sample(sorted(two.objects), mine.randrange(1, 5))
            timeout, begun = mine.uniform(0.2, 4.0), time.monotonic()
            try:
                outcomes = two.sites["alcf"].get_many(keys, timeout)
            except ResolveTimeout:
                late[0] += 1
            else:
                for key, outcome in zip(keys, outcomes, strict=True):
                    assert whole(two, key, outcome), (key, outcome.why)
                well[0] += 1
            assert time.monotonic() - begun < timeout + 1.0

    def cut() -> None:
        pause = threading.Event()
        try:
            for _ in range(cuts):
                assert until(lambda: two.sites["alcf"].streams > 0)  # or a busy machine cuts nothing but greetings
                pause.wait(choice.uniform(0.0, 0.15))
                choice.choice([two.cable.reset, two.cable.cut, two.cable.black_hole, two.cable.pause])()
                pause.wait(choice.uniform(0.0, 0.15))
                two.cable.heal()
        finally:
            done.set()

    for outcome in at_once([cut, *(partial(ask, number) for number in range(3))], 300):
        assert outcome is None, outcome
    key = max(two.objects, key=lambda each: len(two.objects[each]))
    assert whole(two, key, two.sites["alcf"].get_many([key], 60)[0])  # and all is well again
    assert two.sites["alcf"].figures["doubled"] == 0
    assert two.cable.resets > cuts / 4
    return well[0], late[0]


def test_random_cuts_end_well_or_in_time(two: Two) -> None:
    well, _ = random_cuts(two, 1, 12)
    assert well


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_random_cuts_end_well_or_in_time(two: Two) -> None:
    well, late = random_cuts(two, 2, 200)
    assert well > 20
    print(f"{well} ended well, {late} with a typed error in time")


def test_a_dial_that_fails_says_why() -> None:
    two = Two()
    try:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        lost = Peering(
            "alcf", "aps", two._asked, knock=partial(knock, two.ids["alcf"], "aps", ("127.0.0.1", port), timeout=1.0)
        )
        lost.start()
        with pytest.raises(ResolveTimeout, match=r"no stream to it is open; the last dial failed: .*refused"):
            lost.get_many(["x"], 0.5)
        lost.close()
    finally:
        two.close()
