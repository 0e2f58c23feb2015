"""Resolving: how an unresolved proxy fetches its target. The C core keeps the same rules in `_core_waking.h`.

Rules:
1. Threads that touch one proxy share one fetch; no lock is held meanwhile; a failure is forgotten at once.
2. An error of the fetch never looks like an answer: AttributeError, IndexError and the ends of iterations, which Python
   takes for "no such name" and "no more", come out as ProxyfabError.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from proxyfab.errors import ProxyfabError
from proxyfab.flight import SingleFlight
from proxyfab.proxy.core import compiled
from proxyfab.proxy.layout import factory_of, settle, target_of, traits

_flights: SingleFlight[Any] = SingleFlight("the target of this proxy")
_once = _flights.do
_MISLEADING = (AttributeError, IndexError, StopIteration, StopAsyncIteration)

arrived: list[Callable[[type], tuple[type, bool]]] = []
"""Filled by `classes`, which stands above: the class of resolved proxies of a type, and whether that `has_structs`."""


def resolve(proxy: Any, timeout: float | None = None) -> Any:
    """The target of a proxy, fetched if it is not here; anything else as it is.

    Thread-safe: threads that resolve one proxy at once share one fetch.

    Args:
        proxy: A proxy or any object.
        timeout: Seconds to wait. It bounds the wait for another thread's fetch, and the fetch itself where the factory
            has a method `resolve(timeout=...)`.

    Raises:
        ResolveTimeout: The target did not come in time.
        ProxyfabError: It could not be fetched. The next use tries again.
    """
    known = traits.get(type(proxy))
    if known is None:
        return proxy
    if known.resolved:
        return target_of(proxy)
    return _once(id(proxy), _fetch, timeout, proxy, None if timeout is None else monotonic() + timeout)


if not TYPE_CHECKING and compiled is not None:
    resolve = compiled.resolve


def _fetch(proxy: Any, deadline: float | None = None) -> Any:
    if traits[type(proxy)].resolved:  # by a flight that landed while this thread took off
        return target_of(proxy)
    factory = factory_of(proxy)
    try:
        target = factory() if deadline is None else _timed(factory)(timeout=_left(deadline))
        if type(target) in traits:
            target = resolve(target, None if deadline is None else _left(deadline))
    except _MISLEADING as error:
        raise misled(proxy, error) from error
    settle(proxy, target, *arrived[0](type(target)))
    return target


def _left(deadline: float) -> float:
    return max(deadline - monotonic(), 0.0)


def _timed(factory: Callable[[], Any]) -> Callable[..., Any]:
    hook: Callable[..., Any] | None = getattr(factory, "resolve", None)
    return hook if hook is not None else lambda **_: factory()


def text(proxy: Any) -> str:
    """`repr` of an unresolved proxy."""
    name = traits[type(proxy)].kind.name.removeprefix("builtins:").replace(":", ".")
    return f"<Proxy[{name or '?'}] of {factory_of(proxy)!r}, not resolved>"


def misled(proxy: Any, error: Exception) -> ProxyfabError:
    """The error that `proxy` raises instead of `error`, which Python would take for an answer."""
    return ProxyfabError(f"Resolving {text(proxy)} failed: {type(error).__name__}: {error}")


def waking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator of an unresolved proxy: resolve, then do as the resolved one does."""

    def wake(proxy: Any, /, *args: Any) -> Any:
        _once(id(proxy), _fetch, None, proxy)  # what `resolve` does with an unresolved one
        return function(proxy, *args)

    wake.__name__ = wake.__qualname__ = function.__name__
    return wake


def waking_call(proxy: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`p(...)` on an unresolved proxy."""
    return resolve(proxy)(*args, **kwargs)
