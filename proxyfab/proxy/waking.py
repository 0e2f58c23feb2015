"""Resolving: how an unresolved proxy fetches its target. The C core keeps the same rules in `_core_waking.h`.

Rules:
1. Threads that touch one proxy share one fetch; no lock is held meanwhile; a failure is forgotten at once.
2. An error of the fetch never looks like an answer: AttributeError, IndexError and the ends of iterations, which Python
   takes for "no such name" and "no more", come out as ProxyfabError.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING, Any

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.flight import Flight, wait_for
from proxyfab.fork import on_fork
from proxyfab.proxy.core import compiled
from proxyfab.proxy.layout import (
    factory_of,
    is_proxy,
    lookup_in,
    set_class,
    set_getter,
    set_target,
    target_of,
    traits,
)

_MISLEADING = (AttributeError, IndexError, StopIteration, StopAsyncIteration)

arrived: list[Callable[[type], tuple[type, bool]]] = []
"""Filled by `classes`, which stands above: the class of resolved proxies of a type, and whether that `has_structs`."""

_met: dict[type, tuple[type, bool]] = {}
"""What `arrived` said."""
_MOST = 1024
_VARIADIC = 4  # CO_VARARGS
_LANDED = ("the target is in the proxy",)


class _Flights:
    """By a proxy's id: who fetches its target, as `flight.py` describes it."""

    def __init__(self) -> None:
        self.flying: dict[int, Flight] = {}

    def after_fork(self) -> None:
        """What was being fetched is no more: its threads stayed in the parent."""
        self.flying = {}


_flights = _Flights()
on_fork(_flights)


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
    return target_of(proxy) if known.resolved else fetched(proxy, timeout)


if not TYPE_CHECKING and compiled is not None:
    resolve = compiled.resolve


def fetched(proxy: Any, timeout: float | None = None) -> Any:
    """The target of an unresolved proxy: what `SingleFlight.do` does, spelt out, as all first uses come here."""
    mine: Flight = [get_ident(), None]
    flying, key = _flights.flying, id(proxy)
    flight: Flight | None = None
    outcome: Any = None
    try:
        flight = flying.setdefault(key, mine)
        if flight is mine:
            if traits[type(proxy)].resolved:  # by a flight that landed while this thread took off
                return target_of(proxy)
            target = factory_of(proxy)() if timeout is None else timed(factory_of(proxy), timeout)
            met = _met.get(type(target))
            if met is None:
                target = resolve(target)  # it may be a proxy
                met = _meet(type(target))
            set_target(proxy, target)
            set_getter(proxy, MethodType(lookup_in(target) if met[1] else getattr, target))
            set_class(proxy, met[0])
            outcome = _LANDED
            return target
    except _MISLEADING as error:
        outcome = misled(proxy, error)
        raise outcome from error
    except Exception as error:
        outcome = error if timeout is None or not isinstance(error, ResolveTimeout) else None
        raise
    finally:
        if flight is mine:
            del flying[key]  # no call, so no interrupt comes between this and the landing
        mine[0] = outcome
        wake = mine[1]
        if wake is not None:
            any(wake)
        if flight is None and flying.get(key) is mine:
            flying.pop(key, None)
    return resolve(proxy, join(flight, timeout))


def _meet(cls: type) -> tuple[type, bool]:
    found = _met.get(cls)
    if found is not None:
        return found
    if len(_met) >= _MOST:  # classes that are made anew and anew must not gather here
        _met.clear()
    return _met.setdefault(cls, arrived[0](cls))


def join(flight: Flight, timeout: float | None) -> float | None:
    """Wait until a flight has landed. What is left of the timeout, or the error that the pilot had."""
    deadline = None if timeout is None else monotonic() + timeout
    wait_for(flight, "the target of this proxy", timeout)
    if isinstance(flight[0], Exception):
        raise flight[0]
    return None if deadline is None else max(deadline - monotonic(), 0.0)


def timed(factory: Callable[[], Any], timeout: float) -> Any:
    """What a factory returns within a time, if it knows how to hurry."""
    deadline = monotonic() + timeout
    hook = getattr(factory, "resolve", None)
    target = factory() if hook is None else hook(timeout=max(timeout, 0.0))
    return resolve(target, max(deadline - monotonic(), 0.0)) if is_proxy(target) else target


def text(proxy: Any) -> str:
    """`repr` of an unresolved proxy."""
    name = traits[type(proxy)].kind.name.removeprefix("builtins:").replace(":", ".")
    return f"<Proxy[{name or '?'}] of {factory_of(proxy)!r}, not resolved>"


def misled(proxy: Any, error: Exception) -> ProxyfabError:
    """The error that `proxy` raises instead of `error`, which Python would take for an answer."""
    return ProxyfabError(f"Resolving {text(proxy)} failed: {type(error).__name__}: {error}")


def waking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator of an unresolved proxy: resolve, then do as the resolved one does."""
    code = function.__code__
    alone = code.co_argcount == 1 and not code.co_flags & _VARIADIC
    wake = _waking_plain(function) if alone else _waking_any(function)
    wake.__name__ = wake.__qualname__ = function.__name__
    return wake


def _waking_plain(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def wake(proxy: Any, /) -> Any:
        fetched(proxy)
        return function(proxy)

    return wake


def _waking_any(function: Callable[..., Any]) -> Callable[..., Any]:
    def wake(proxy: Any, /, *args: Any) -> Any:
        fetched(proxy)
        return function(proxy, *args)

    return wake


def waking_call(proxy: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`p(...)` on an unresolved proxy."""
    return resolve(proxy)(*args, **kwargs)
