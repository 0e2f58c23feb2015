"""Prometheus: what this process moved, and what places hold, as metrics.

    from proxyfab.integrations.prometheus import TransferCollector, publish, register

    register()  # into prometheus_client's own registry, for a program that exports that
    with publish("9464", TransferCollector()):  # at http://127.0.0.1:9464/metrics, for one that does not
        ...

Promises: figures are gathered when somebody asks for them, and cost nothing in between; nothing is bound beyond
loopback unless a host is named; no key of an object becomes a label. A place that does not answer is `proxyfab_up 0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from proxyfab import trace
from proxyfab.abc import Status
from proxyfab.errors import ConfigurationError, ConnectorError, MissingDependency, ProxyfabError
from proxyfab.retry import budgets

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_LABELS = ("operation", "source", "target", "connector")
_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
LOOPBACK = "127.0.0.1"


class Collector(Protocol):
    """What Prometheus's registry asks."""

    def collect(self) -> Iterator[Metric]: ...


class TransferCollector:
    """Counters of this process, per operation and link: `proxyfab_operations_total`, `..._failures_total`,
    `..._bytes_total` and `..._seconds_total`, as `trace.totals` has them; and of retries per place.
    """

    def collect(self) -> Iterator[Metric]:
        """One family for each of a total's figures."""
        _client()
        from prometheus_client.core import CounterMetricFamily

        totals = trace.totals.totals()
        for place, (name, what) in enumerate(
            (
                ("proxyfab_operations", "Calls of an operation on a link."),
                ("proxyfab_failures", "Calls among them that failed."),
                ("proxyfab_bytes", "Payload bytes that were moved."),
                ("proxyfab_seconds", "Seconds that were spent in the calls."),
            )
        ):
            family = CounterMetricFamily(name, what, labels=_LABELS)
            for (operation, link), total in totals.items():
                family.add_metric((operation, *link), total[place])
            yield family
        yield from _retries()


def _retries() -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    made = CounterMetricFamily("proxyfab_retries", "Calls that were tried again.", labels=("place",))
    refused = CounterMetricFamily(
        "proxyfab_retries_refused", "Retries that the budget of a place did not allow.", labels=("place",)
    )
    for place, budget in sorted(budgets().items()):
        made.add_metric((place,), budget.retries)
        refused.add_metric((place,), budget.refused)
    yield from (made, refused)


class StatusCollector:
    """What one place holds and does: objects, bytes, limit, peers, and each figure that it tells besides.

    Args:
        place: The place's URL, as the label `place`.
        ask: Its status now; may raise any ProxyfabError.
    """

    def __init__(self, place: str, ask: Callable[[], Status]) -> None:
        self._place = place
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters; only `proxyfab_up` where the place does not answer."""
        _client()
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, what: str, value: float) -> Metric:
            family = GaugeMetricFamily(f"proxyfab_{name}", what, labels=("place",))
            family.add_metric((self._place,), value)
            return family

        try:
            status = self._ask()
        except ProxyfabError:
            yield gauge("up", "Whether the place answers.", 0)
            return
        yield gauge("up", "Whether the place answers.", 1)
        yield gauge("held_objects", "Objects that the place holds.", status.objects)
        yield gauge("held_bytes", "Bytes that the place holds.", status.nbytes)
        yield gauge("peers", "Peers that are connected, or namespaces.", len(status.peers))
        if status.limit is not None:
            yield gauge("limit_bytes", "Bytes that the place may hold.", status.limit)
        if status.started is not None:
            yield gauge("start_time_seconds", "When the place's server started, since the epoch.", status.started)
        for level, value in sorted(status.gauges.items()):
            yield gauge(f"place_{_NOT_A_NAME.sub('_', level)}", f"{level}, as the place tells it.", value)
        for counter, value in sorted(status.counters.items()):
            name, what = f"proxyfab_place_{_NOT_A_NAME.sub('_', counter)}", f"{counter}, as the place tells it."
            total = CounterMetricFamily(name, what, labels=("place",))
            total.add_metric((self._place,), value)
            yield total


def register(registry: CollectorRegistry | None = None, collector: Collector | None = None) -> Callable[[], None]:
    """Add a collector (this process's transfers) to a registry (prometheus_client's own); returns what undoes it."""
    _client()
    from prometheus_client import REGISTRY

    chosen = REGISTRY if registry is None else registry
    added = TransferCollector() if collector is None else collector
    chosen.register(added)
    return lambda: chosen.unregister(added)


def exposition(*collectors: Collector) -> str:
    """The metrics of some collectors in Prometheus's text format, version 0.0.4."""
    _client()
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry).decode()


@contextmanager
def publish(address: str, *collectors: Collector) -> Iterator[str]:
    """Serve metrics over HTTP for as long as the block lasts; gives their URL.

    Args:
        address: `PORT` (on loopback) or `HOST:PORT`; port 0 is any free one.
        collectors: What to ask at each scrape.

    Raises:
        ConfigurationError: The address makes no sense.
        ConnectorError: It cannot be bound.
    """
    _client()
    from prometheus_client import CollectorRegistry, start_http_server

    host, port = _cut(address)
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConnectorError(
            f"Metrics cannot be served at {address}: {error.strerror or error}; choose another port or address."
        ) from error
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _cut(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{address!r} is no address for metrics; write PORT or HOST:PORT, as in 9464.")
    return host.strip("[]") or LOOPBACK, int(port)


def _client() -> None:
    try:
        import prometheus_client  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingDependency(
            "Metrics for Prometheus need the package 'prometheus-client': pip install 'proxyfab[prometheus]'"
        ) from error
