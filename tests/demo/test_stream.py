"""The second act: who dies, what comes again, and that nothing is lost, at real brokers."""

from __future__ import annotations

import os

import numpy as np
import pytest

from proxyfab.brokers import open_broker
from proxyfab.demo.pipeline import DemoError
from proxyfab.demo.role import now
from proxyfab.demo.setup import Setup
from proxyfab.demo.stream import act
from proxyfab.demo.stream.act import perform
from proxyfab.demo.stream.course import Course, Held, Kill, Slice
from proxyfab.demo.stream.plan import Plan
from proxyfab.errors import ConnectorError
from tests.demo.small import SMALL


@pytest.fixture(params=[pytest.param("nats", marks=pytest.mark.slow), "redis"])  # test_demo.py has it at NATS
def broker(request, nats_server, redis_server):
    return nats_server.url if request.param == "nats" else redis_server.database()


def topics_at(url):
    with open_broker(url) as place:
        return [topic for topic in place.topics() if topic.startswith("demo-")]


@pytest.fixture
def heard():
    return []


def test_nothing_is_lost_and_pictures_are_those_of_the_first_act(broker, heard, first):
    course = perform(SMALL, broker, lambda *what: heard.append(what))

    assert sorted(course.pictures) == list(range(9))
    for frame, picture in first.pictures.items():
        assert np.array_equal(picture, course.pictures[frame])
    assert (course.lost, course.held.lag, course.held.dead_letters, course.left) == (0, 0, 0, 0)
    assert course.differing == []
    assert heard[-1] == (9, 9)
    the_one_that_died_did_not_go_on(course)
    assert topics_at(broker) == []


def the_one_that_died_did_not_go_on(course):
    kill = course.kill
    done = {each.frame for each in course.slices if each.worker == kill.worker}
    assert all(each.taken <= kill.at for each in course.slices if each.worker == kill.worker)
    if kill.frame not in done:  # it was at that one
        assert kill.frame in course.again
    assert set(course.reports) == {"instrument", "worker-0", "worker-1", "worker-2"} - {kill.worker}
    assert course.held.nbytes < course.bulk


def test_a_lone_worker_is_replaced(nats_server):
    setup = Setup(frames=2, size=64, angles=96, workers=1, deadline=60)

    course = perform(setup, nats_server.url, lambda *_: None)

    assert (course.kill.worker, course.kill.replaced_by, course.lost) == ("worker-0", "worker-1", 0)
    assert course.shares.get("worker-1", 0) >= 1


def test_a_death_that_was_not_planned_is_told(nats_server, monkeypatch):
    started = []
    launch = act.Crew.launch

    def launched(crew, name, *rest):
        launch(crew, name, *rest)
        started.append(crew.processes[name])
        if name == "instrument":
            crew.processes[name].kill()

    monkeypatch.setattr(act.Crew, "launch", launched)
    with pytest.raises(DemoError, match=r"The instrument process was ended by SIGKILL\. It said nothing\."):
        perform(SMALL, nats_server.url, lambda *_: None)

    assert all(process.poll() is not None for process in started)
    assert topics_at(nats_server.url) == []


def test_a_broker_that_is_not_there_is_told():
    begun = now()
    with pytest.raises(ConnectorError):
        perform(SMALL, "redis://127.0.0.1:1?timeout=1", lambda *_: None)
    assert now() - begun < 60


def course_of(*slices):
    kill = Kill("worker-1", 3.0, 2.9, 1, "worker-2")
    return Course("nats://auto", 3, slices, {}, kill, [], 100, Held(9, 90, 0, 0), 0, {})


def test_what_a_course_says():
    def done(frame, worker, attempt, first):
        return Slice(frame, worker, attempt, 1.0 + frame, 1.5 + frame, 2.0, 2.1, 2.2, 4.0 + attempt, first)

    course = course_of(done(0, "worker-0", 1, True), done(1, "worker-1", 1, True), done(1, "worker-0", 2, False))

    assert (course.started, course.seconds) == (1.0, 4.0)
    assert (course.lost, course.duplicates, course.again) == (1, 1, [1])
    assert course.shares == {"worker-0": 2, "worker-1": 1}
    assert course.as_dict()["killed"] == {"worker": "worker-1", "frame": 1, "seconds": 2.0, "replaced_by": "worker-2"}


def test_a_plan_travels():
    plan = Plan(SMALL, "nats://auto", f"demo-{os.getpid()}")
    assert Plan.from_json(plan.to_json()) == plan
    assert len({topic.name for topic in plan.topics}) == 3
