"""Metrics of this process's transfers and of places, in Prometheus's own parser."""

from __future__ import annotations

import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from proxyfab.abc import Status
from proxyfab.census import status_of
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import CapabilityError, ConfigurationError, ConnectorError, KeyNotFound, MissingDependency
from proxyfab.integrations.prometheus import StatusCollector, TransferCollector, exposition, publish, register
from proxyfab.layers.base import Layer
from proxyfab.retry import budget_of
from proxyfab.store import Store


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_operation(text: str, name: str, operation: str, connector: str = "memory") -> float:
    found = samples(text).items()
    wanted = ("operation", operation), ("connector", connector)
    return sum(value for (which, labels), value in found if which == name and set(wanted) <= set(labels))


def test_transfers_are_counted_with_bytes_failures_and_seconds():
    before = exposition(TransferCollector())
    with Store("memory://", inline_below=0) as store:
        key = store.put(b"x" * 10_000)
        store.get(key)
        store.evict(key)
        with pytest.raises(KeyNotFound):
            store.resolve(key)
        after = exposition(TransferCollector())

    def grown(name: str, operation: str) -> float:
        return of_operation(after, name, operation) - of_operation(before, name, operation)

    assert grown("proxyfab_operations_total", "put") == 1
    assert grown("proxyfab_operations_total", "get") == 2
    assert 10_000 <= grown("proxyfab_bytes_total", "put") < 11_000
    assert grown("proxyfab_seconds_total", "put") > 0
    assert grown("proxyfab_failures_total", "put") == 0


def test_retries_are_counted_per_place_with_those_that_were_not_allowed():
    budget = budget_of("test://metrics")
    for _ in range(12):
        budget.spend()
    found = samples(exposition(TransferCollector()))

    assert found["proxyfab_retries_total", (("place", "test://metrics"),)] == 10
    assert found["proxyfab_retries_refused_total", (("place", "test://metrics"),)] == 2


def test_a_program_that_exports_already_gets_them_into_its_registry():
    registry = CollectorRegistry()
    undo = register(registry)
    with Store("memory://", inline_below=0) as store:
        store.put(1)
    assert "proxyfab_operations" in {family.name for family in registry.collect()}
    undo()
    assert not list(registry.collect())


def test_a_place_as_gauges_and_counters():
    status = Status("x://", 3, 500, 1000, {"put": 4.0, "put-bytes": 7.0}, ({"name": "a"},), 12.5, {"waiting": 2.0})
    found = samples(exposition(StatusCollector("x://host", lambda: status)))
    label = (("place", "x://host"),)

    assert found == {
        ("proxyfab_up", label): 1,
        ("proxyfab_held_objects", label): 3,
        ("proxyfab_held_bytes", label): 500,
        ("proxyfab_limit_bytes", label): 1000,
        ("proxyfab_peers", label): 1,
        ("proxyfab_start_time_seconds", label): 12.5,
        ("proxyfab_place_put_total", label): 4,
        ("proxyfab_place_put_bytes_total", label): 7,
        ("proxyfab_place_waiting", label): 2,
    }


def test_a_place_that_does_not_answer_is_down_and_the_rest_is_told():
    def ask() -> Status:
        raise ConnectorError("gone")

    found = samples(exposition(StatusCollector("x://", ask), TransferCollector()))
    assert found["proxyfab_up", (("place", "x://"),)] == 0


def test_odd_labels_survive():
    place = 'x://"quoted"\\back\nline'
    status = Status("x://", 0, 0, None, {})
    assert ("proxyfab_up", (("place", place),)) in samples(exposition(StatusCollector(place, lambda: status)))


def test_they_are_served_on_loopback_and_no_longer_than_wanted():
    with publish("0", TransferCollector()) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "proxyfab_operations_total" in answer.read().decode()
        with pytest.raises(ConnectorError, match="choose another"), publish(url.split("/")[2], TransferCollector()):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=20)


@pytest.mark.parametrize("address", ["", "http://x", "host", "99999", "127.0.0.1:x"])
def test_an_address_that_makes_no_sense(address):
    with pytest.raises(ConfigurationError, match="PORT"), publish(address):
        pass


def test_without_the_package_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependency, match=r"pip install 'proxyfab\[prometheus\]'"):
        register()


def test_a_census_counts_where_a_place_does_not_tell():
    with Store("memory://", inline_below=0) as store:
        store.put(b"x" * 1000)
        store.put(b"y" * 1000)
        found = status_of(store.connector)
    assert found.objects == 2
    assert found.nbytes == sum(int(peer["bytes"]) for peer in found.peers) > 2000

    class Mute(Layer):
        scan = None

    with pytest.raises(CapabilityError):
        status_of(Mute(MemoryConnector()))
