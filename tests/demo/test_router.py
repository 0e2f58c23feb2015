"""The dispatcher's decisions, without any process."""

from __future__ import annotations

import pytest

from proxyfab.demo.channel import Message
from proxyfab.demo.dispatcher import Delivery, Router


def message(kind, **header):
    return Message({"kind": kind, **header}, b"body")


def frame(number):
    return message("frame", frame=number)


def to(deliveries):
    return [delivery.peer for delivery in deliveries]


def test_it_begins_when_everybody_is_ready():
    router = Router(2)

    assert router.arrived("worker-0", message("ready")) == []
    assert router.arrived("instrument", message("ready")) == []
    assert to(router.arrived("worker-1", message("ready"))) == ["main", "instrument"]


def test_signs_of_life_go_to_the_main_process():
    assert to(Router(1).arrived("instrument", message("preparing", frame=3))) == ["main"]


def test_the_calibration_goes_to_every_worker():
    assert to(Router(3).arrived("instrument", message("calibration"))) == ["worker-0", "worker-1", "worker-2"]


def test_frames_go_to_whoever_holds_least_and_wait_when_all_are_busy():
    router = Router(2)

    given = [to(router.arrived("instrument", frame(number))) for number in range(5)]

    assert given == [["worker-0"], ["worker-1"], ["worker-0"], ["worker-1"], []]
    answer = router.arrived("worker-1", message("image", frame=1))
    assert to(answer) == ["main", "worker-1"]
    assert answer[0].message.header["worker"] == "worker-1"
    assert answer[1] == Delivery("worker-1", frame(4))


def test_the_instrument_is_held_up_when_enough_frames_wait():
    router = Router(1)

    numbers = iter(range(100))
    while not router.full:
        router.arrived("instrument", frame(next(numbers)))
    router.arrived("worker-0", message("image", frame=0))

    assert next(numbers) < 10
    assert not router.full


@pytest.mark.parametrize("instrument_first", [True, False])
def test_workers_end_when_no_frame_is_under_way(instrument_first):
    router = Router(2)
    router.arrived("instrument", frame(0))
    last_two = [("instrument", message("report")), ("worker-0", message("image", frame=0))]

    ends = [to(router.arrived(*each)) for each in (last_two if instrument_first else reversed(last_two))]

    assert ends == [["main"], ["main", "worker-0", "worker-1"]]
    assert not router.finished
    router.arrived("worker-0", message("report"))
    named = router.arrived("worker-1", message("report", name="worker"))
    assert named[0].message.header["name"] == "worker-1"
    assert router.finished


def test_a_message_of_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="worker-0 sent a message of unknown kind 'nonsense'"):
        Router(1).arrived("worker-0", message("nonsense"))
