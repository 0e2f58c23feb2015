"""What a subclass of BrokerTests says about its broker, and the fixtures that every part of the suite uses."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

import pytest

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.handle import broker_of
from proxyfab.events.model import Capability, Topic

Make: TypeAlias = Callable[..., str]
Join: TypeAlias = Callable[[], Broker]
_numbers = itertools.count()


class BrokerSuite:
    """Statements and fixtures. What is not claimed is not tested, and the report says so.

    What a broker can do at all, its `capabilities` say; the statements here are about what lies beside them.
    """

    crosses_processes: ClassVar[bool] = True
    """Another process that opens the same URL finds the same topics."""

    bounds: ClassVar[bool] = True
    """It keeps to a topic's `max_bytes`, in both ways of being full."""

    retains: ClassVar[bool] = True
    """It keeps to a topic's `retention`, in seconds."""

    survives_kills: ClassVar[bool] = True
    """What a killed member held comes again without waiting for `ack_wait`, because the broker sees its end."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """What the broker under test knows and must not show."""

    patience: ClassVar[float] = 20.0
    """Seconds in which on a busy machine whatever is to come has come."""

    @pytest.fixture
    def broker(self) -> Any:
        """An opened broker, to be closed by the fixture. Its place may be shared by tests: topics have names of their
        own and are deleted.
        """
        raise NotImplementedError

    def another(self, broker: Broker) -> Broker:
        """A second client of the same place, in this process."""
        again: Broker = type(broker_of(broker)).from_url(broker.url)  # type: ignore[attr-defined]  # which every broker has
        return again

    @pytest.fixture
    def join(self, broker: Broker) -> Iterator[Join]:
        """Further clients of the broker's place; closed when the test ends."""
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(self.another(broker))

    @pytest.fixture
    def make(self, broker: Broker) -> Iterator[Make]:
        """Makes topics that nobody else has, and returns their names; they are deleted when the test ends."""
        made: list[str] = []

        def make(**options: Any) -> str:
            made.append(f"suite.{os.getpid()}-{os.urandom(3).hex()}-{next(_numbers)}")
            broker.ensure(Topic(made[-1], **options))
            return made[-1]

        yield make
        with contextlib.suppress(ProxyfabError), self.another(broker) as last:  # a test may have closed the first one
            for name in made:
                last.delete(name)

    @pytest.fixture
    def topic(self, make: Make) -> str:
        """The name of a topic with one partition."""
        return make()

    def claim(self, broker: Broker, *abilities: Capability | str) -> None:
        """Go on only where the broker has these capabilities, and these statements of it, or of the suite, are true."""
        for ability in abilities:
            if isinstance(ability, Capability):
                has = ability in broker.capabilities
            else:
                has = getattr(broker if hasattr(type(broker_of(broker)), ability) else self, ability)
            if not has:
                name = ability.name if isinstance(ability, Capability) else ability
                pytest.skip(f"{type(broker).__name__} does not claim {name}")
