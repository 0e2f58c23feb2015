"""A known site that lies, floods, and never reads: a real gateway lives, serves its own, and says what was wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("cryptography")

from msgpack import packb

from proxyfab.errors import CapacityError, IntegrityError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import until
from tests.sites.liar import FOR_EVER, SECRETS, Liar, public

MB = 1_000_000
THERE = Key("x", "nersc/run/0123456789ab")
Lie = Callable[[Liar, int], None]


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    peers = [word for site in SECRETS for word in ("--peer", f"{site}=#{public(site)},may=all")]
    with Gateways("aps", "alcf", each={"aps": peers}) as sites:
        yield sites.servers["aps"]


@pytest.fixture
def aps(server: NodeServer) -> Iterator[Store]:
    with at_home(server) as store:
        yield store


def at_home(server: NodeServer, timeout: int = 30) -> Store:
    return Store(f"site://aps?gateway={server.url.removeprefix('zmq://')}&timeout={timeout}", cache=0)


@pytest.fixture
def liar(server: NodeServer) -> Iterator[Liar]:
    liar = Liar(server)
    yield liar
    liar.close()


def lying(liar: Liar, lie: Lie, call: Callable[[], Any]) -> Any:
    """What a call of a process of aps comes to while nersc answers with a lie."""

    def answer() -> None:
        for letter in liar.hear():
            if letter.verb == "ask":
                lie(liar, letter.count("t"))
                return

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        return call()
    finally:
        thread.join(20)


def has(nbytes: int) -> Lie:
    return lambda liar, transfer: liar.say("have", {"t": transfer, "n": nbytes, "d": bytes(16)})


def damaged(liar: Liar, transfer: int) -> None:
    liar.say("some", {"t": [transfer], "n": [100], "d": bytes(16)}, bytes(100))


def outside(liar: Liar, transfer: int) -> None:
    liar.say("have", {"t": transfer, "n": 1000, "d": bytes(16)})
    liar.segment(transfer, 900, bytes(200), 2000)


def unasked(liar: Liar, transfer: int) -> None:
    """What nobody asked for, and then what was."""
    for number in range(100):
        liar.small(transfer + 1000 + number, FOR_EVER + bytes(50_000))
        liar.segment(transfer + 5000 + number, 0, bytes(256 << 10), 1 << 40)
    liar.small(transfer, FOR_EVER + b"this was asked for")


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (has(1 << 39), CapacityError),
        (has(0), IntegrityError),
        (has(1 << 20), ProxyfabError),  # and no byte of it
        (damaged, IntegrityError),
        (outside, ProxyfabError),
        (lambda liar, transfer: liar.small(transfer, b"short"), IntegrityError),
        (lambda liar, transfer: liar.stream.sendall(b"\xff" * 32), ProxyfabError),
        (lambda liar, transfer: liar.say("fail", {"t": transfer, "why": "../x", "kind": "Elsewhere"}), ProxyfabError),
        (lambda liar, transfer: liar.say("fail", {"t": transfer, "why": "x", "kind": "object"}), ProxyfabError),
    ],
)
def test_a_lie_is_an_error_in_time(server: NodeServer, liar: Liar, lie: Lie, error: type[ProxyfabError]) -> None:
    """Where it is not said at once, it is when the call has no more time."""
    with at_home(server, 2 if error is ProxyfabError else 30) as aps:
        begun = time.monotonic()
        with pytest.raises(error):
            lying(liar, lie, lambda: aps.connector.get(THERE))
        assert time.monotonic() - begun < 10


def test_what_nobody_asked_for_is_dropped(aps: Store, liar: Liar, server: NodeServer) -> None:
    before = server.memory()
    found = lying(liar, unasked, lambda: aps.connector.get(Key("y", THERE.where)))
    assert found.tobytes() == b"this was asked for"
    assert server.memory() - before < 20 * MB


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [1],
        {"rows": [5], "found": [True, True]},
        {"rows": [[1]], "found": [[]]},
        {"rows": [["a", 1, 2, 3, 4, 5]], "found": ["a" * 60_000]},
        {"rows": [], "found": list(range(30_000))},
        {"rows": [None, None], "found": [10**9]},
        {"rows": 7, "found": -1},
    ],
    ids=lambda fields: str(fields)[:60],
)
@pytest.mark.parametrize("verb", ["exists", "evict", "stat", "wait", "push"])
def test_answers_that_are_none(aps: Store, liar: Liar, verb: str, fields: Any) -> None:
    connector: Any = aps.connector
    calls: dict[str, Callable[[], Any]] = {
        "exists": lambda: connector.exists(THERE),
        "evict": lambda: connector.evict(THERE),
        "stat": lambda: connector.stat(THERE),
        "wait": lambda: connector.wait(THERE, 3.0),
        "push": lambda: connector.push([aps.put(b"mine")], "nersc"),
    }
    with pytest.raises(IntegrityError):
        lying(liar, lambda liar, transfer: liar.small(transfer, packb(fields)), calls[verb])


def flood(liar: Liar, keys: Callable[[int], list[Any]], letters: int) -> None:
    """Ask, and do not read; until the gateway has enough."""
    liar.stream.settimeout(3)
    try:
        for number in range(letters):
            some = keys(number)
            liar.say("ask", {"t": number * 1000, "keys": some})
    except OSError:
        pass


def test_who_asks_and_never_reads_costs_little(aps: Store, liar: Liar, server: NodeServer) -> None:
    """20,000 times the same 60 KB: 1.2 GB of answers."""
    key = aps.put(os.urandom(60_000))
    ask = ["get", *key.where.split("/"), key.id, []]
    before = server.memory()
    flood(liar, lambda _: [ask] * 250, 80)
    begun = time.monotonic()
    assert aps.get(aps.put(b"own")) == b"own"
    assert time.monotonic() - begun < 4
    assert server.memory() - before < 120 * MB


def test_waiting_for_ever_for_many_is_refused(aps: Store, server: NodeServer) -> None:
    """And over when it has gone: its waits would last for a minute."""
    liar = Liar(server, "ornl")
    site, namespace, incarnation = aps.reserve().where.split("/")

    def keys(letter: int) -> list[Any]:
        ids = [[f"{letter}-{number}-{each}" for each in range(20)] for number in range(50)]
        return [["wait", site, namespace, incarnation, some, 1e6] for some in ids]

    flood(liar, keys, 21)
    refused = next(letter for letter in liar.hear() if letter.verb == "fail")
    assert refused.text("kind") == "CapacityError"
    assert aps.connector.status().gauges["waiting"] > 0  # type: ignore[attr-defined]  # a gateway's can
    liar.close()
    assert until(lambda: aps.connector.status().gauges["waiting"] == 0, 20)  # type: ignore[attr-defined]
    assert aps.get(aps.put(b"own")) == b"own"


def test_a_wait_that_is_given_up_is_over(aps: Store, server: NodeServer) -> None:
    liar = Liar(server, "ornl")
    site, namespace, incarnation = aps.reserve().where.split("/")
    liar.say("ask", {"t": 0, "keys": [["wait", site, namespace, incarnation, [f"{n}"], 1e6] for n in range(50)]})
    waiting = lambda: aps.connector.status().gauges["waiting"]  # type: ignore[attr-defined]  # noqa: E731
    assert until(lambda: waiting() == 50)
    liar.say("stop", {"t": list(range(1, 50))})
    assert until(lambda: waiting() == 1)
    liar.close()
    assert until(lambda: waiting() == 0)


@pytest.mark.parametrize("streams", [list(range(5000)), [0], [1 << 62]], ids=["many", "this one", "another one"])
def test_streams_that_are_given_up(aps: Store, liar: Liar, streams: list[int]) -> None:
    liar.say("ended", {"s": streams, "n": [1 << 60] * len(streams)})
    assert aps.get(aps.put(b"own")) == b"own"


@pytest.mark.parametrize("word", ["..", "../../etc/passwd", "a\0b", "/", "\ud7ff" * 100, "~" * 200, "a/b/c"])
def test_names_that_would_be_paths_are_names(aps: Store, liar: Liar, word: str) -> None:
    site, namespace, incarnation = aps.put(b"own").where.split("/")
    keys: list[Any] = [
        ["get", site, namespace, incarnation, word, []],
        ["get", site, word, incarnation, "x", []],
        ["get", word, namespace, word, "x", []],
        ["wait", site, word, incarnation, [word], 0.1],
        ["do", site, namespace, incarnation, [word], "evict", {}],
        ["fetch", word, word, word, [word], 1.0],
        ["take", site, namespace, incarnation, [word], 1.0, {"from": ["nersc", word, word, word]}],
    ]
    liar.say("ask", {"t": 0, "keys": keys})
    answers: dict[int, str] = {}
    for letter in liar.hear():
        if letter.verb in ("none", "fail"):
            answers[letter.count("t")] = letter.text("kind", "")
        elif letter.verb == "some":
            answers.update(dict.fromkeys(letter.counts("t"), "answered"))
        elif letter.verb == "ask":  # it comes for what it is to take
            liar.say("none", {"t": letter.count("t")})
        if len(answers) == len(keys):
            break
    assert answers.pop(0) == ""
    assert answers.pop(4) == "answered"  # False: there is none
    assert set(answers.values()) <= {"", "IntegrityError", "ConfigurationError", "AccessDenied", "ObjectLost"}
    assert aps.get(aps.put(b"own")) == b"own"
