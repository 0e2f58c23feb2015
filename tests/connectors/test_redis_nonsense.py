"""redis:// at what speaks Redis's protocol, and answers something else than was asked for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, BinaryIO

import pytest

from proxyfab.connectors.redis import RedisConnector
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key
from proxyfab.testing.content import signed
from proxyfab.testing.servers import HOST

NONSENSE = {
    "number": b":5\r\n",
    "word": b"+OK\r\n",
    "nothing": b"*-1\r\n",
    "list": b"*2\r\n:1\r\n*1\r\n$-1\r\n",
    "a key that is a number": b"*2\r\n$1\r\n0\r\n*1\r\n:8000000000\r\n",
    "a node without end": b"*1\r\n*3\r\n:0\r\n:8000000000\r\n*2\r\n$1\r\nh\r\n:1\r\n",
    "a node without a name": b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n:1\r\n:1\r\n",
}
USUAL = {b"HELLO": b"%0\r\n", b"CLIENT": b"+OK\r\n", b"PING": b"+PONG\r\n"}
KEY = Key("k")
CALLS: dict[str, Callable[[RedisConnector], object]] = {
    "get": lambda one: one.get(KEY),
    "get_range": lambda one: one.get_range(KEY, 0, 1),
    "get_many": lambda one: one.get_many([KEY, Key("j")]),
    "put": lambda one: one.put(signed(10), key=KEY),
    "put_many": lambda one: one.put_many([signed(10), signed(10)]),
    "exists_many": lambda one: one.exists_many([KEY, Key("j")]),
    "stat": lambda one: one.stat(KEY),
    "evict": lambda one: one.evict(KEY),
    "renew": lambda one: one.renew(KEY, 5.0),
    "compare_and_set": lambda one: one.compare_and_set(KEY, None, signed(10)),
    "wait": lambda one: one.wait(KEY, 0.01),
    "scan": lambda one: next(iter(one.scan()), None),
    "status": lambda one: one.status(),
    "clear": lambda one: one.clear(),
}


def words(said: BinaryIO) -> list[bytes]:
    """The next command; raises ValueError at the end."""
    found = []
    for _ in range(int(said.readline()[1:])):
        found.append(said.read(int(said.readline()[1:])))
        said.read(2)
    return found


class Liar:
    """Answers hello as Redis does, and `answer` to everything else."""

    def __init__(self) -> None:
        self.answer = b""
        self._listening = socket.create_server((HOST, 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                thread = threading.Thread(target=self._serve, args=(self._listening.accept()[0],))
                self._threads.append(thread)
                thread.start()

    def _serve(self, one: socket.socket) -> None:
        with one, one.makefile("rb") as said, suppress(OSError, ValueError):
            while True:
                command = words(said)
                usual = b"$-1\r\n" if b"epoch" in b"".join(command[1:2]) else USUAL.get(command[0])
                one.sendall(usual or self.answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with closing(Liar()) as liar:
        yield liar


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("way", ["", "&cluster=1", "&sentinel=m"])
def test_an_answer_that_makes_no_sense_is_an_error_that_says_so(liar: Liar, what: str, way: str) -> None:
    """Or is taken for what it may mean; what was neither came out as a TypeError of ours, or took all memory."""
    liar.answer = NONSENSE[what]
    wrong: dict[str, Any] = {}
    for name in ("get", "scan") if way else CALLS:  # of others nothing but where the servers are is asked
        call = CALLS[name]
        with RedisConnector.from_url(f"redis://{HOST}:{liar.port}/0?timeout=0.02{way}", name="one") as one:
            try:
                call(one)
            except ProxyfabError:
                pass
            except Exception as error:  # the test is which
                wrong[name] = error
    assert not wrong
