"""site:// keeps the promises of any connector: at its own site, where it is a node server's client with other keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.connectors.zmq.site import SiteConnector
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.gateways import Gateways

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def sites() -> Iterator[Gateways]:
    with Gateways("aps") as gateways:
        yield gateways


class Served(Suite):
    """By one gateway for all tests."""

    connector = SiteConnector
    around = True  # the server is the one of zmq://, whose suites have it all
    on_disk = False
    interruptible = False

    @pytest.fixture(autouse=True)
    def _served(self, sites: Gateways) -> None:
        self.sites = sites

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return self.sites.url("aps")


class TestSite(Served, ObjectTests, BatchTests):
    """What the keys of a site could break."""


@pytest.mark.slow
class TestSiteAll(Served, ConnectorTests):
    """Everything, though zmq:// has shown it."""
