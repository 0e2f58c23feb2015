"""Fifty clients of a server that answers only errors ask it hardly more often than without retries."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from proxyfab.connectors.redis import RedisConnector
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.testing.processes import at_once

CLIENTS, CALLS = 50, 8


class Loading:
    """A server that speaks Redis's protocol and always says that it is not ready yet; counts what it is asked."""

    def __init__(self, listening: socket.socket) -> None:
        self.asked = 0
        self._listening = listening
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listening.accept()
                thread = threading.Thread(target=self._answer, args=(link,))
                thread.start()
                self._threads.append(thread)
        for thread in self._threads:
            thread.join()

    def _answer(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            while said := link.recv(65536):
                commands = said.split(b"*")[1:]
                wanted = [b"EXISTS" in command for command in commands]
                with self._lock:
                    self.asked += sum(wanted)
                link.sendall(b"".join(b"-LOADING not ready\r\n" if refuse else b"+OK\r\n" for refuse in wanted))


@pytest.fixture
def server() -> Iterator[tuple[Loading, str]]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        loading = Loading(listening)
        thread = threading.Thread(target=loading.serve)
        thread.start()
        yield loading, f"redis://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_place_that_answers_only_errors_is_asked_at_most_a_fifth_more(server: tuple[Loading, str]) -> None:
    loading, url = server
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RedisConnector.from_url(url)) for _ in range(CLIENTS)]

        def use(client: RedisConnector) -> int:
            failed = 0
            for _ in range(CALLS):
                with contextlib.suppress(ConnectorError):
                    client.exists(Key("k"))
                    continue
                failed += 1
            return failed

        assert at_once([lambda client=client: use(client) for client in clients]) == [CALLS] * CLIENTS

    assert CLIENTS * CALLS <= loading.asked <= 1.2 * CLIENTS * CALLS
