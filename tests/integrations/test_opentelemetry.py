"""OpenTelemetry's own SDK receives what moved, below the span that was current, and nothing once it is switched off."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxyfab import Store, prefetch, trace
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConnectorError, MissingDependency
from proxyfab.integrations.opentelemetry import instrument, uninstrument
from proxyfab.testing import until
from proxyfab.testing.faults import FaultyConnector


class Seen:
    def __init__(self) -> None:
        self.provider = TracerProvider()
        self.exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]


@pytest.fixture
def seen() -> Iterator[Seen]:
    found = Seen()
    instrument(found.provider)
    yield found
    uninstrument()
    found.provider.shutdown()


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://", inline_below=0) as store:
        yield store


def test_a_put_and_a_get_are_spans_with_what_they_moved(seen, store):
    key = store.put(b"x" * 10_000)
    store.get(key)
    put, get = seen.spans()

    assert (put.name, get.name) == ("put memory", "get memory")
    assert put.kind == SpanKind.INTERNAL
    assert put.attributes is not None
    assert put.attributes["db.system.name"] == "proxyfab"
    assert put.attributes["db.operation.name"] == "put"
    assert put.attributes["server.address"] == trace.here()
    assert 10_000 <= int(put.attributes["proxyfab.nbytes"]) < 11_000
    assert get.attributes["proxyfab.key"] == str(key)
    assert put.start_time <= put.end_time <= get.end_time
    assert put.status.status_code == StatusCode.UNSET
    assert put.instrumentation_scope.name == "proxyfab"


def test_batches_tell_their_size_and_no_key(seen, store):
    store.get_many(store.put_many([1, 2, 3]))
    for span in seen.spans():
        assert span.attributes["db.operation.batch.size"] == 3
        assert "proxyfab.key" not in span.attributes


def test_across_machines_it_is_a_clients_span_to_the_other_end(seen):
    class Far(MemoryConnector):
        place = "redis:far.example:6379"
        local = False

    with Store(Far(), inline_below=0) as store:
        store.get(store.put(1))
    assert [span.kind for span in seen.spans()] == [SpanKind.CLIENT] * 2
    assert {span.attributes["server.address"] for span in seen.spans()} == {"redis:far.example:6379"}


@pytest.mark.parametrize(
    ("place", "address", "port"),
    [
        ("redis://cache.example:6379/0", "cache.example", 6379),
        ("zmq://[::1]:5555", "::1", 5555),
        ("file:/scratch/me", "file:/scratch/me", None),
        ("node-7", "node-7", None),
        ("redis://a:1,b:2/0", "redis://a:1,b:2/0", None),
    ],
)
def test_an_address_is_a_host_and_a_port_where_there_is_one(seen, place, address, port):
    with trace.span("get", trace.Link(place, trace.here(), "x")):
        pass
    (span,) = seen.spans()

    assert span.attributes["server.address"] == address
    assert span.attributes.get("server.port") == port


def test_a_failure_is_told_with_its_type(seen):
    link = FaultyConnector(MemoryConnector())
    with Store(link, inline_below=0) as store:
        link.cut()
        with pytest.raises(ConnectorError):
            store.put(1)
    (span,) = seen.spans()

    assert span.status.status_code == StatusCode.ERROR
    assert "cut" in (span.status.description or "")
    assert span.attributes["error.type"] == "proxyfab.errors.ConnectorError"
    assert span.events[0].name == "exception"


def children(seen: Seen, parent: str) -> set[str]:
    (above,) = seen.spans(parent)
    return {span.name for span in seen.spans() if span.parent and span.parent.span_id == above.context.span_id}


def test_it_is_a_child_of_the_current_span(seen, store):
    with seen.tracer.start_as_current_span("step"):
        store.get(store.put(1))
    assert children(seen, "step") == {"put memory", "get memory"}


def test_also_where_another_thread_works_for_the_caller(seen, store):
    with seen.tracer.start_as_current_span("waiting"):
        proxy = store.proxy([1])
        prefetch(proxy)
        assert until(lambda: seen.spans("get"))
        store.resolve(store.put(2), timeout=20)

    async def coroutine() -> None:
        with seen.tracer.start_as_current_span("coroutine"):
            await store.aput(3)

    asyncio.run(coroutine())
    assert len([span for span in seen.spans("get") if span.parent]) == 2
    assert children(seen, "waiting") == {"put memory", "get memory"}
    assert children(seen, "coroutine") == {"put memory"}


def test_threads_without_a_current_span_make_roots(seen, store):
    thread = threading.Thread(target=lambda: store.put(1))
    with seen.tracer.start_as_current_span("main"):
        thread.start()
        thread.join()
    assert seen.spans("put")[0].parent is None


def test_switched_off_nothing_is_recorded_and_nobody_listens(store):
    before = trace._listeners
    found = Seen()
    instrument(found.provider)
    instrument(found.provider)
    store.put(1)
    assert len(found.spans()) == 1, "a second call changes the provider and records nothing twice"
    uninstrument()
    uninstrument()
    store.put(2)
    assert len(found.spans()) == 1
    assert trace._listeners == before


def test_a_provider_that_fails_breaks_no_transfer(store):
    class Broken(SpanProcessor):
        def on_start(self, span, parent_context=None):
            raise ValueError("a bug in somebody's processor")

    found = Seen()
    found.provider.add_span_processor(Broken())
    instrument(found.provider)
    try:
        with pytest.warns(RuntimeWarning, match="somebody's processor"):
            key = store.put([1])
    finally:
        uninstrument()
    assert store.get(key) == [1]


def test_without_the_package_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(MissingDependency, match=r"pip install 'proxyfab\[otel\]'"):
        instrument()
