"""Channels carry messages whole, count every byte, and never wait for ever."""

from __future__ import annotations

import socket
import threading

import pytest

from proxyfab.demo.channel import Channel, Hangup, Silence


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    channels = Channel(left.detach(), "the right", 0.1), Channel(right.detach(), "the left", 0.1)
    yield channels
    for channel in channels:
        channel.close()


@pytest.mark.parametrize("size", [0, 1, 1000, 5_000_000])
def test_a_message_arrives_whole_and_is_counted(pair, size):
    left, right = pair
    body = bytes(size)
    sender = threading.Thread(target=left.send, args=({"kind": "frame", "times": [0.5]}, body))
    sender.start()

    message = right.receive()
    sender.join()

    assert message.kind == "frame"
    assert message.header["times"] == [0.5]
    assert message.body == body
    assert left.sent == right.received > size
    assert left.received == right.sent == 0


def test_the_end_of_the_other_side_is_a_hangup(pair):
    left, right = pair
    left.close()

    with pytest.raises(Hangup, match="the left hung up"):
        right.receive()
    with pytest.raises(Hangup, match="the left hung up"):
        right.send({"kind": "frame"}, bytes(1_000_000))


def test_who_says_nothing_or_takes_nothing_is_given_up(pair):
    left, right = pair

    with pytest.raises(Silence, match=r"said nothing for 0\.1 s"):
        right.receive()
    with pytest.raises(Silence, match=r"took no message for 0\.1 s"):
        left.send({"kind": "frame"}, bytes(50_000_000))
