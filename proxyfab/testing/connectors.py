"""ConnectorTests: the conformance suite that every connector passes.

    class TestMine(ConnectorTests):
        connector = MyConnector

        def url_at(self, directory, monkeypatch):
            return f"mine://{directory}"

Statements of ability and hooks are in `proxyfab.testing.conformance.base.Suite`; docs/testing-connectors.md explains.
"""

from __future__ import annotations

from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.crossing import CrossingTests
from proxyfab.testing.conformance.disks import DiskTests
from proxyfab.testing.conformance.hostile import HostileTests
from proxyfab.testing.conformance.identity import IdentityTests
from proxyfab.testing.conformance.lifetimes import LifetimeTests
from proxyfab.testing.conformance.mischief import MischiefTests
from proxyfab.testing.conformance.model import ModelTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.swapping import SwapTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.conformance.waiting import WaitTests


class ConnectorTests(
    ObjectTests,
    BatchTests,
    PayloadTests,
    LifetimeTests,
    WaitTests,
    SwapTests,
    IdentityTests,
    ThreadTests,
    CrossingTests,
    DiskTests,
    HostileTests,
    MischiefTests,
    ModelTests,
):
    """Subclass it, say how to open your connector and what it claims, and let pytest collect the subclass."""
