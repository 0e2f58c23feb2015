"""Options of sockets that pass bytes in bulk."""

from __future__ import annotations

import select
import socket

from proxyfab.osio.sockets import expect


def room(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def test_who_expects_much_has_room_for_it_and_is_told_of_little() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            before = room(ours)
            expect(ours, 4 * before)
            assert room(ours) >= 4 * before
            theirs.sendall(b"a")
            assert select.select([ours], [], [], 20)[0], "a single byte wakes"


def test_a_unix_socket_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = room(ours)
        expect(ours)
        assert room(ours) == before
