"""Topics that come while a trigger with a pattern runs."""

from __future__ import annotations

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.patterns.stream import Producer
from proxyfab.patterns.trigger import Event, Trigger
from proxyfab.testing import until


def test_nothing_of_a_topic_that_comes_later_is_left_out() -> None:
    seen: list[object] = []

    def note(event: Event) -> None:
        seen.append(event.object)

    with MemoryBroker() as broker:
        with Producer(broker, "beam.old") as out:
            out.send("before")
        with Trigger(broker, "beam.*", note), Producer(broker, "beam.new") as new, Producer(broker, "beam.old") as old:
            new.send("first")
            new.send("second")
            old.send("after")
            until(lambda: len(seen) >= 3)
        assert sorted(map(str, seen)) == ["after", "first", "second"]
