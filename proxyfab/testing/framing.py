"""Target: frames of events, as a broker hands them on from whoever published them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from proxyfab.errors import IntegrityError, SerializationError
from proxyfab.wire.events import (
    END,
    MAX_EVENTS,
    NOTHING,
    OBJECT,
    VALUE,
    Event,
    Frame,
    decode,
    encode,
    pack_metadata,
    unpack_metadata,
)


def golden() -> Frame:
    """One of everything."""
    metadata = pack_metadata({"exposure": 0.2, "tags": ["a", None, {"b": b"\0"}], "n": -1})
    return Frame(
        "camera-1",
        2,
        3,
        1 << 40,
        "//beamline.example/camera",
        ["redis://a", "file:///b"],
        [
            Event(VALUE, None, 1_700_000_000_000_000, "run-1", metadata, {"subject": "s", "id": "own"}),
            Event(VALUE, True, 1),
            Event(VALUE, -(1 << 63), 2, "é"),
            Event(VALUE, 1.5, 3, None, NOTHING, {}),
            Event(VALUE, "text \u2603", 4),
            Event(VALUE, bytes(range(256)), 5),
            Event(OBJECT, [1, "key", b"where", 10, None], 6, "run-1", metadata),
            Event(END, None, 7),
        ],
    )


def event_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield encode(golden())
    yield encode(Frame("", 0, 0, 0, "", [], []))
    yield encode(Frame("p", 0, 0, 0, "s", [], [Event(VALUE, b"x" * 100, number) for number in range(64)]))


def read_events(data: bytes) -> None:
    """A frame, as it came and with a right beginning; its ids, and the metadata of each event."""
    for body in (data, b"\xefE\x01" + data[3:]):
        try:
            frame = decode(body)
        except IntegrityError:
            continue
        assert len(frame.events) <= MAX_EVENTS
        assert all(event.kind in (VALUE, OBJECT, END) for event in frame.events)
        assert all(event.data[0] < len(frame.stores) for event in frame.events if event.kind == OBJECT)
        names = [frame.id_of(index) for index in range(len(frame.events))]
        assert all(isinstance(name, str) for name in [frame.id, *names])
        for event in frame.events:
            with suppress(IntegrityError):
                assert isinstance(unpack_metadata(event.metadata), dict)
        with suppress(SerializationError):  # a half of a character, or metadata that nobody has decoded
            assert len(decode(encode(frame)).events) == len(frame.events)
    decode(data)
