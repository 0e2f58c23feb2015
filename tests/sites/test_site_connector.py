"""site:// keeps the promises of any connector: at its own site, where it is a node server's client with other keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.connectors.zmq.site import SiteConnector
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.store import Store
from proxyfab.testing import ConnectorTests
from proxyfab.testing.cable import Cable
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.gateways import Gateways
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import at_once, until

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


def test_a_put_under_a_key_of_another_site_takes_no_longer_than_a_call_may() -> None:
    """It is three requests to one's own gateway, which is slow here, and one call."""
    with Gateways("one", "two") as sites, Store(sites.url("one")) as one, Cable(sites.address("two")) as cable:
        way = "shared=0&side=0&timeout=2"
        with Store(f"site://two?gateway={cable.address}&{way}", cache=0) as two:
            assert two.put("first", key=one.reserve())
            cable.delay(0.6)
            begun = time.monotonic()
            with pytest.raises(ConnectorError, match="give"):
                two.put("second", key=one.reserve())
            assert time.monotonic() - begun < 3


def test_a_put_under_a_key_of_another_site_is_not_begun_anew_by_another_gateway() -> None:
    """It may have been done; to be told that it is there already would say that somebody else did it."""
    with Gateways("one", "two", through=lambda _: "127.0.0.1:1") as sites, Cable(sites.address("two")) as cable:
        first = sites.servers["two"]
        at = f"site://two?gateway={cable.address}&timeout=120"
        # The second one is there already: who is refused does not try for as long as a slow machine needs to start it.
        with (
            NodeServer(first.arguments, environment=first.environment) as second,
            Store(at) as two,
            Store(sites.url("two")) as other,
        ):
            assert other.connector.status().gauges["waiting"] == 0  # type: ignore[attr-defined]  # it can

            def put() -> None:
                with pytest.raises(ConnectorError, match="started anew amid a put under a key of another site"):
                    two.put(b"value" * 100, key=Key("x", "one/run/0123456789ab"))

            def restart() -> None:
                # Not as soon as the object is there: who was not told that it is puts it once more, which may be.
                assert until(lambda: other.connector.status().gauges["waiting"] == 1)  # type: ignore[attr-defined]  # as above
                cable.target = second.url.removeprefix("zmq://")
                first.kill()

            assert at_once([put, restart]) == [None, None]
