"""What comes from and goes to a NATS server is cut and joined exactly, however it is split on the way."""

from __future__ import annotations

import random

import pytest

from proxyfab.brokers.nats.arrivals import ROOM, Arrivals, Message
from proxyfab.brokers.nats.departures import ROOM as OUT
from proxyfab.brokers.nats.departures import Departures

LARGE = random.Random(7).randbytes(3 * ROOM + 17)
LINES: list[tuple[bytes, object]] = [
    (b"PING\r\n", b"PING\r\n"),
    (b"MSG a.b 3 5\r\nhello\r\n", (3, "a.b", "", {}, b"hello")),
    (b"MSG a.b 12 $JS.ACK.x 0\r\n\r\n", (12, "a.b", "$JS.ACK.x", {}, b"")),
    (b"HMSG i.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", (1, "i.1", "", {"Status": "503"}, b"")),
    (
        b"HMSG i.2 1 r 53 56\r\nNATS/1.0 404 No Messages\r\nNats-Msg-Id:a b: c\r\nX: \r\n\r\n\r\nN\r\n",
        (1, "i.2", "r", {"Status": "404", "Description": "No Messages", "Nats-Msg-Id": "a b: c", "X": ""}, b"\r\nN"),
    ),
    (b"MSG l 2 %d\r\n%b\r\n" % (len(LARGE), LARGE), (2, "l", "", {}, LARGE)),
    (b"-ERR 'x'\r\n", b"-ERR 'x'\r\n"),
    (b"MSG s 4 2\r\n\r\n\r\n", (4, "s", "", {}, b"\r\n")),
    (b"INFO {}\r\n", b"INFO {}\r\n"),
]


def heard(pieces: list[bytes]) -> list[object]:
    found: list[object] = []

    def message(number: int, each: Message) -> None:
        found.append((number, each.subject, each.reply, each.headers, each.data))

    arrivals = Arrivals(message, found.append)
    for piece in pieces:
        while piece:
            room = arrivals.room()
            part, piece = piece[: len(room)], piece[len(room) :]
            room[: len(part)] = part
            arrivals.took(len(part))
    return found


def test_messages_are_found_wherever_they_are_split() -> None:
    said = [line for line, _ in LINES]
    wanted = [meant for _, meant in LINES]
    assert heard(said) == wanted
    assert heard([b"".join(said)]) == wanted
    dice = random.Random(3)
    for most in (7, 1000, 70_000):
        whole, pieces = b"".join([*said, *said]), []
        while whole:
            size = dice.randint(1, most)
            pieces.append(whole[:size])
            whole = whole[size:]
            if most == 7 and len(pieces) > 400:  # the large one need not come by crumbs
                most = 5000
        assert heard(pieces) == [*wanted, *wanted]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG\r\n",
        b"MSG a b 3\r\n",
        b"MSG a 1 r x 3\r\n",
        b"HMSG a 1 9 3\r\n",
        b"MSG a 1 -3\r\n",
        b"MOO a 1 3\r\n",
        b"\xff\r\n",
    ],
)
def test_what_makes_no_sense_goes_on_as_it_is(line: bytes) -> None:
    assert heard([line, b"MSG a 1 1\r\nx\r\n"]) == [line, (1, "a", "", {}, b"x")]


def test_a_line_without_an_end_is_not_kept() -> None:
    assert heard([b"x" * 200_000]) != []


def test_messages_leave_in_their_order_and_whole_also_where_what_was_written_is_kept() -> None:
    kept: list[memoryview] = []
    soon: list[object] = []
    copies: list[bytes] = []

    def write(data: memoryview) -> bool:
        kept.append(data)
        copies.append(data.tobytes())
        return True

    out = Departures(write, soon.append)
    body = LARGE[: OUT // 3]
    out.add("a", b"one", "", None)
    out.add("b", b"", "r", {"Id": "7"})
    assert soon == [out.leave] and not kept
    out.leave()
    out.leave()
    for _ in range(4):
        out.add("c", body, "r", None)
    out.add("d", LARGE, "", None)
    out.leave()
    c = b"PUB c r %d\r\n%b\r\n" % (len(body), body)
    wanted = b"PUB a  3\r\none\r\nHPUB b r 19 19\r\nNATS/1.0\r\nId: 7\r\n\r\n\r\n" + 4 * c
    wanted += b"PUB d  %d\r\n%b\r\n" % (len(LARGE), LARGE)
    assert b"".join(copies) == wanted
    assert b"".join(kept) == wanted, "what may still be referred to was written over"
