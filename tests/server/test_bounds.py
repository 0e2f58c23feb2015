"""What a header can say, what one connection may begin, and what a server remembers has a bound; nothing ends it."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgpack import unpackb

from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import ConnectorError, KeyExists
from proxyfab.keys import Key
from proxyfab.server.gate import Gate
from proxyfab.server.host import State
from proxyfab.server.index import Name
from proxyfab.server.node import Node
from proxyfab.server.options import Options
from proxyfab.server.owners import Owners
from proxyfab.server.peers import Peer
from proxyfab.server.storage import Storage
from proxyfab.server.verbs import Verbs
from proxyfab.server.waiting import Waiters
from proxyfab.testing.cable import Cable
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import until
from proxyfab.wire.flow import PIPELINED
from proxyfab.wire.messages import REQUEST, Message
from tests.server.raw import Raw

MB = 2**20


@pytest.fixture
def one(node_server, request):
    with ZMQConnector.from_url(f"{node_server.url}?ns={request.node.name[:40]}&timeout=10&shared=0") as connector:
        yield connector
        connector.clear()


# -- answers that no header can hold ---------------------------------------------------------------------------------


def test_a_batch_of_which_most_is_there_already_is_refused_and_the_rest_is_put(one):
    keys = [Key(f"object-number-{number:012}") for number in range(1000)]
    new = [Key(f"other-number-{number:012}") for number in range(20)]
    one.put_many([Frames([b"x"])] * 1000, keys=keys)
    with pytest.raises(KeyExists, match="object-number-000000000000 is there already"):
        one.put_many([Frames([b"x"])] * 1020, keys=keys + new)
    assert one.exists_many(new) == [True] * 20


def test_reaping_many_with_long_names(one):
    keys = [Key("p" * 180 + f"{number:012}") for number in range(500)]
    one.put_many([Frames([b"x"])] * 500, keys=keys, ttl=0.5)
    assert until(lambda: not one.exists(keys[-1]))
    reclaimed = one.reap()
    assert len(reclaimed) > 50
    assert one.exists_many(keys) == [False] * 500
    assert list(one.scan()) == []


def test_who_asks_for_more_than_an_answer_can_say(node_server, raw, one):
    one.put(Frames([bytes(MB // 2)]), key=Key("k"))
    ids = {"ns": one.namespace, "ids": ["k"] * 20_000}
    answer = raw().ask("get", {**ids, "shared": True})
    assert (answer.verb, len(answer.items("sizes"))) == ("ok", 1024)
    assert raw().ask("stat", ids, request=b"s" * 16).verb == "error"
    assert [frames.nbytes for frames in one.get_many([Key("k")] * 3)] == [MB // 2] * 3


def test_many_peers_with_long_names_are_told_as_far_as_there_is_room(one, raw):
    clients = [raw() for _ in range(300)]
    for client in clients:
        assert client.ask("hello", {"name": "\N{EURO SIGN}" * 100, "process": "p"}).verb == "ok"
    assert 50 < len(one.status().peers) < 300


# -- objects in many pieces ------------------------------------------------------------------------------------------


def test_an_object_of_many_small_pieces_is_put(one):
    key = one.put(Frames([b"%08d" % number for number in range(300_000)]))
    assert one.get(key).tobytes()[-8:] == b"00299999"


def test_chunks_cost_no_more_than_their_bytes(raw):
    client = raw()
    answer = client.ask("upload", {"ns": "n", "id": "k", "size": 0})
    assert (answer.verb, answer.text("kind")) == ("error", "IntegrityError")
    assert client.ask("upload", {"ns": "n", "id": "k", "size": 10 * MB}).verb == "go"
    answer = client.ask("data", {"o": 0}, b"x")
    assert (answer.verb, answer.text("kind")) == ("error", "IntegrityError")


# -- requests at once ------------------------------------------------------------------------------------------------


class Slow(MemoryConnector):
    """A storage that takes nothing until it is told to."""

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def put(self, frames, **options):
        assert self.go.wait(20)
        return super().put(frames, **options)


def test_one_connection_has_so_many_requests_worked_on_at_most(context):
    """What they brought waits in memory for a slow disk."""
    slow = Slow()
    node = Node(Options(side=False), Storage(slow))
    endpoints = node.open()
    serving = threading.Thread(target=node.run)
    serving.start()
    client = Raw(context, SimpleNamespace(ready={"endpoints": endpoints}))
    try:
        requests = [number.to_bytes(16, "big") for number in range(40)]
        for number, request in enumerate(requests):
            client.say("put", {"ns": "n", "ids": [f"k{number}"], "sizes": [9000]}, bytes(9000), request=request)
        refused = [client.hear() for _ in range(8)]
        assert {answer.fields.get("kind") for answer in refused} == {"CapacityError"}
        assert [answer.request for answer in refused] == requests[32:]
        slow.go.set()
        assert sorted(client.hear().request for _ in range(32)) == requests[:32]
        again = {"ns": "n", "ids": ["k39"], "sizes": [1]}
        assert client.ask("put", again, b"x", request=requests[39]).fields == {"exists": []}, "it was not done before"
    finally:
        slow.go.set()
        client.close()
        node.stop()
        serving.join()


def test_a_mistake_in_the_loop_ends_nobody_elses_requests(context, capfd):
    node = Node(Options(side=False), Storage(MemoryConnector()))
    endpoints = node.open()
    receive, wrong = node.line.receive, [ValueError("a mistake")] * 3

    def failing():
        if wrong:
            raise wrong.pop()
        return receive()

    node.line.receive = failing
    serving = threading.Thread(target=node.run)
    serving.start()
    client = Raw(context, SimpleNamespace(ready={"endpoints": endpoints}))
    try:
        assert client.ask("exists", {"ns": "n", "ids": ["k"]}).fields["found"] == [False]
        assert client.ask("status", {}).fields["counters"]["faults"] == 3
    finally:
        client.close()
        node.stop()
        serving.join()
    assert capfd.readouterr().err.count("ValueError: a mistake") == 3


@pytest.mark.parametrize("set_by", [3600, -3600])
def test_whoever_sets_the_clock_moves_no_objects_end(set_by, monkeypatch):
    state, clock = State(Owners()), time.time
    verbs = Verbs(SimpleNamespace(options=Options()), state)
    short, long = Name("n", "short"), Name("n", "long")
    for name, ttl in ((short, 0.01), (long, 60)):
        state.index.publish(name, Key("k"), 1, state.now(), ttl, replace=False)
    monkeypatch.setattr(time, "time", lambda: clock() + set_by)
    assert until(lambda: state.find(short) is None)
    assert state.find(long) is not None
    asked = Message("stat", bytes(REQUEST), {"ns": "n", "ids": ["long"]})
    (row,) = verbs.stat(None, asked).fields["rows"]
    created, expires = row[3:5]
    assert abs(created - time.time()) < 30  # as this clock has it
    assert expires - created == 60
    assert verbs.stat(None, asked).fields["rows"] == [row]


def test_who_owns_a_namespace_is_looked_up_once_however_many_objects_it_holds():
    """The loop looks it up, and nobody else is served meanwhile."""
    node = Node(Options(side=False), Storage(MemoryConnector()))
    node.open()
    looked: list[str] = []
    of = node.state.owners.of
    node.state.owners.of = lambda namespace: looked.append(namespace) or of(namespace)
    for number in range(1000):
        node.state.index.publish(Name("n", f"k{number}"), Key("k"), 1, 1.0, None, replace=False)
    try:
        answer = node.verbs.scan(Peer(b"p", -1, node.line), Message("scan", bytes(16), {}))
    finally:
        node._close()
    assert answer is not None
    assert len(unpackb(answer.body[0])) == 1000
    assert looked == ["n"]


def test_a_swap_goes_on_while_others_put_what_it_expects():
    """Each time it has looked, the object is another one with the same bytes."""
    storage = Storage(MemoryConnector())
    verbs = Verbs(SimpleNamespace(options=Options(), storage=storage), State(Owners()))
    put = Message(
        "put", bytes(REQUEST), {"ns": "n", "ids": ["k"], "sizes": [3], "replace": True}, (memoryview(b"old"),)
    )
    sizes, body = {"ns": "n", "ids": ["k"], "old": 3, "new": 3}, (memoryview(b"old"), memoryview(b"new"))
    others = iter(range(40))

    def done(message: Message, amid=lambda: None):
        steps, value = verbs.steps(Peer(b"p", -1, None), message), None
        while True:
            try:
                value = steps.send(value).call()
            except StopIteration as end:
                return end.value
            amid()

    done(put)
    answer = done(Message("swap", bytes(REQUEST), sizes, body), lambda: next(others, None) is not None and done(put))
    assert next(others, None) is None, "it was not disturbed as often"
    assert answer.fields == {"done": True}


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_a_wait_that_is_repeated_takes_the_first_ones_place(one, raw):
    client = raw()
    for _ in range(2):
        client.say("wait", {"ns": "n", "ids": ["never"], "timeout": None})
    assert client.ask("exists", {"ns": "n", "ids": ["never"]}, request=b"e" * 16).verb == "ok"
    assert one.status().gauges["waiting"] == 1
    client.close()
    assert until(lambda: one.status().gauges["waiting"] == 0)


def test_one_connection_has_so_many_waits_at_most(one, raw):
    client = raw()
    for number in range(1025):
        client.say("wait", {"ns": "n", "ids": ["never"], "timeout": 60}, request=number.to_bytes(16, "big"))
    answer = client.hear()
    assert (answer.verb, answer.text("kind")) == ("error", "CapacityError")
    client.close()
    assert until(lambda: one.status().gauges["waiting"] == 0)


def test_a_wait_until_no_number_holds_nobody_up(one, raw):
    answer = raw().ask("wait", {"ns": "n", "ids": ["never"], "timeout": float("nan")})
    assert (answer.verb, answer.text("kind")) == ("error", "IntegrityError")
    assert one.wait(Key("never"), 0.1) is False


def test_deadlines_of_those_who_were_told_are_forgotten():
    waiters, name = Waiters(), Name("n", "k")
    staying = waiters.add(name, lambda _: None, 500.0)
    for _ in range(10_000):
        waiters.add(Name("n", "other"), lambda _: None, 1000.0)()
    assert len(waiters._deadlines) < 3000
    assert waiters.next() == 500.0
    staying()
    assert waiters.next() is None


def test_a_call_that_is_repeated_gets_no_second_deadline(context):
    """There is no room for its object, so that it waits; then its connection breaks."""
    with NodeServer(["--uploads", "1MiB"]) as server, Cable(f"127.0.0.1:{server.port}") as cable:
        first = Raw(context, server)
        assert first.ask("upload", {"ns": "n", "id": "k", "size": 50 * MB}).verb == "go"
        with ZMQConnector.from_url(cable.through(server.url) + "?ns=n&timeout=4&shared=0") as one:
            assert not one.exists(Key("k"))
            breaking = threading.Timer(3.0, cable.reset)
            breaking.start()
            started = time.monotonic()
            with pytest.raises(ConnectorError, match="2 times"):
                one.put(Frames([bytes(3 * MB)]))
            assert time.monotonic() - started < 5.5
            breaking.join()
        first.close()


def test_an_answer_that_finds_no_room_ends_its_connection_and_is_asked_for_anew(node_server, one):
    """It went unheard until the deadline of the call."""
    one.put(Frames([bytes(200_000)]), key=Key("k"))
    counts = iter([150, 8])
    url = f"{node_server.url}?ns={one.namespace}&timeout=30&shared=0&side=0"
    with Cable(f"127.0.0.1:{node_server.port}") as cable, ZMQConnector.from_url(cable.through(url)) as far:
        before = one.status().counters["dropped"]

        def once(channel: Channel, request: bytes) -> int:
            number = next(counts)
            if number > PIPELINED:
                cable.pause("down")
            waiting = {os.urandom(REQUEST) for _ in range(number)}
            for each in waiting:
                channel.send("get", each, {"ns": far.namespace, "ids": ["k"], "window": MB})
            if number > PIPELINED:
                assert until(lambda: one.status().counters["dropped"] > before)
                cable.heal()
            while waiting:
                answer = channel.answer(request, time.monotonic() + 30, waiting)
                assert len(channel.receive(answer, answer.items("sizes"), 30)) == 1
                waiting.remove(answer.request)
            return number

        started = time.monotonic()
        assert far.servers.own().call("get", once) == 8
        assert time.monotonic() - started < 20


# -- who is known ----------------------------------------------------------------------------------------------------


def test_names_of_processes_are_not_kept_for_ever():
    owners = Owners()
    for number in range(30_000):
        owners.come(f"p{number}", f"{number}@host")
        owners.leave(f"p{number}")
    assert len(owners._names) == 10_000
    assert not owners._connected


def test_who_says_hello_again_is_one_connection(one, raw):
    client = raw()
    for _ in range(3):
        assert client.ask("hello", {"name": "4711@elsewhere", "process": "p"}).verb == "ok"
    assert client.ask("exists", {"ns": "n", "ids": ["never"]}).verb == "ok"


def test_a_key_on_the_list_may_begin_like_a_comment(tmp_path):
    key = "#" + "a" * 39
    allowed = tmp_path / "allowed"
    allowed.write_text(f"# those who are let in\n{key} ada\n")
    assert Gate(Options(key="site", allow=str(allowed)))._allowed() == {key.encode(): "ada"}


# -- memory ----------------------------------------------------------------------------------------------------------


def test_what_a_load_has_taken_is_given_back():
    """What ZeroMQ's threads let go of stays with the C library otherwise, as soon as one block behind it is in use."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    node = Node(Options(side=False), Storage(MemoryConnector()))
    node.open()
    before = own_memory()
    *blocks, last = (libc.malloc(100_000) for _ in range(1000))
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks:
        libc.free(block)
    try:
        kept = own_memory()
        assert kept > before + 50_000_000
        node.verbs.sweep(time.monotonic() + 60)
        assert until(lambda: own_memory() < kept - 50_000_000 or node._step(0.01))
    finally:
        libc.free(last)
        node._close()


def own_memory() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
