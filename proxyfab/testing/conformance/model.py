"""The whole connector against a dict."""

from __future__ import annotations

import itertools

from hypothesis.stateful import run_state_machine_as_test

from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.stateful import ConnectorMachine, quick


class ModelTests(Suite):
    """A random walk of all operations does what it does to a dict."""

    def test_it_equals_a_dict(self, connect: Open) -> None:
        names = map("walk{}".format, itertools.count())

        run_state_machine_as_test(lambda: ConnectorMachine(lambda: connect(next(names))), settings=quick())
