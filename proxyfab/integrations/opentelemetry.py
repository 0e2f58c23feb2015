"""OpenTelemetry: each step that moves an object becomes a span, a child of the one that was current where it was asked.

    from proxyfab.integrations.opentelemetry import instrument, uninstrument

    instrument()      # once, after the program has set up its tracer provider
    uninstrument()

Promises: without `instrument` nothing is loaded and nothing is slower; an error in telemetry never becomes an error of
a transfer. Names and attributes follow the semantic conventions for database clients, with `proxyfab.*` beside them; no
payload and no password is among them. A span is recorded when its step has ended, so what other libraries record
meanwhile lies beside it, not below.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyfab import trace
from proxyfab.errors import MissingDependency

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_MANY = " keys"
_HOST_AND_PORT = re.compile(r"://(?P<host>\[[^\]]*\]|[^/:,\[\]]+):(?P<port>\d+)(?=/|$)")
_OUT = frozenset({"put", "put_many", "exists", "evict", "clear", "retry"})
_stop: Callable[[], None] | None = None
_changing = threading.Lock()


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Record spans from now on, of all stores of this process; a second call changes to another provider.

    Args:
        tracer_provider: Where tracers come from; the program's global one by default.

    Raises:
        MissingDependency: The package opentelemetry-api is not installed.
    """
    try:
        from opentelemetry.trace import get_tracer
    except ImportError as error:
        raise MissingDependency("Spans need the package 'opentelemetry-api': pip install 'proxyfab[otel]'") from error
    listener = _Recorder(get_tracer("proxyfab", tracer_provider=tracer_provider))
    global _stop
    with _changing:
        before, _stop = _stop, trace.listen(listener)
    if before is not None:
        before()


def uninstrument() -> None:
    """Record no more spans; does nothing where none were."""
    global _stop
    with _changing:
        before, _stop = _stop, None
    if before is not None:
        before()


class _Recorder:
    """Listens to steps and records them. Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        self._tracer = tracer
        self._inside, self._across = SpanKind.INTERNAL, SpanKind.CLIENT
        self._failed = StatusCode.ERROR

    def __call__(self, step: trace.Span) -> None:
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{step.operation} {step.link.connector}",
            kind=self._inside if step.link.source == step.link.target else self._across,
            attributes=_attributes(step),
            start_time=ended - int(step.seconds * 1e9),
        )
        if step.error is not None and span.is_recording():
            span.record_exception(step.error, timestamp=ended)
            span.set_status(self._failed, str(step.error))
        span.end(ended)


def _attributes(step: trace.Span) -> dict[str, str | int]:
    source, target, connector = step.link
    key = str(step.key)
    found: dict[str, str | int] = {
        "db.system.name": "proxyfab",
        "db.operation.name": step.operation,
        **_server(target if step.operation in _OUT else source),
        "proxyfab.connector": connector,
        "proxyfab.source": source,
        "proxyfab.target": target,
        "proxyfab.nbytes": step.nbytes,
    }
    count = key.removesuffix(_MANY)
    if count != key and count.isdecimal():
        found["db.operation.batch.size"] = int(count)
    elif key:
        found["proxyfab.key"] = key
    if step.error is not None:
        kind = type(step.error)
        found["error.type"] = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return found


@lru_cache(256)
def _server(place: str) -> dict[str, str | int]:
    """Host and port of a place such as `redis://host:6379/0`; what is no URL is a host's name or a directory."""
    match = _HOST_AND_PORT.search(place)
    if match is None:
        return {"server.address": place}
    return {"server.address": match["host"].strip("[]"), "server.port": int(match["port"])}
