"""Crossing: what happens to the arguments of a call before it, and to its result behind it.

Promises: a call that has nothing large to pass gets the very arguments it was given; what is large becomes a proxy
that is stored only when it is sent (`parcel`); with `lazy=False` the function gets real objects, whose bytes are
fetched side by side. Picklable, as a function that goes by value takes it along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from proxyfab.coroutines import in_thread
from proxyfab.patterns.parcel import Parcel, can_be_proxied, wrapped
from proxyfab.patterns.passing import SMALL, Limits, bare, fill, once, plan, proxies_in
from proxyfab.patterns.wishes import REF, VALUE, Wishes
from proxyfab.proxy import factory_of, is_proxy, is_resolved
from proxyfab.ref import Ref
from proxyfab.store import Store

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Crossing:
    """How one function's arguments and results travel.

    Attributes:
        store: Where large objects go.
        limit: What is large, and how deep containers are searched.
        args: Whether arguments travel by reference.
        result: Whether results do.
        lazy: Whether the function gets proxies; otherwise real objects.
        ttl: Seconds until what is stored expires.
        skip: How many positional arguments belong to the call itself: the object whose method it is.
        wishes: What the function's annotations say of single arguments.
    """

    store: Store
    limit: Limits
    args: bool = True
    result: bool = True
    lazy: bool = True
    ttl: float | None = None
    skip: int = 0
    wishes: Wishes = field(default_factory=lambda: Wishes(None))

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments as the function itself gets them, where it runs."""
        if not self.lazy:
            return self.resolved(args, kwargs)
        return self.send(args, kwargs) if self.args else (args, kwargs)

    async def aenter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """`enter`, without blocking the event loop."""
        if self.lazy or not any(not is_resolved(proxy) for proxy in self._proxies(args, kwargs)):
            return self.enter(args, kwargs)
        return await in_thread(lambda: self.resolved(args, kwargs))

    def send(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], wrap: Callable[[Any], Any] | None = None
    ) -> Arguments:
        """The arguments with what is large as proxies, for whoever takes them elsewhere.

        Args:
            args: By position.
            kwargs: By name.
            wrap: Makes the proxy of a large object; a parcel's if None.
        """
        wrap, wishes = once(wrap or self.parcel), self.wishes
        passed = [
            value if place < self.skip else self.passed(value, wishes.of(place), wrap)
            for place, value in enumerate(args)
        ]
        return tuple(passed), {name: self.passed(value, wishes.of(name), wrap) for name, value in kwargs.items()}

    def leave(self, value: Any, wrap: Callable[[Any], Any] | None = None) -> Any:
        """A result as it is handed on."""
        return self.passed(value, self.wishes.result, once(wrap or self.parcel)) if self.result else value

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments with real objects instead of proxies."""
        depth = self.limit.depth
        ahead(self._proxies(args, kwargs))
        return tuple([bare(value, depth) for value in args]), {
            name: bare(value, depth) for name, value in kwargs.items()
        }

    def parcel(self, value: Any) -> Any:
        """A proxy of an object that is stored when it is sent."""
        return wrapped(Parcel(value, self.store, self.ttl))

    def _proxies(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        depth = self.limit.depth
        return [proxy for value in (*args, *kwargs.values()) for proxy in proxies_in(value, depth)]

    def passed(self, value: Any, wish: str | None, wrap: Callable[[Any], Any]) -> Any:
        """One value as it travels: as a wish says or, without one, as its size does."""
        if wish is REF:
            return wrap(value) if can_be_proxied(value) else value
        if type(value) in SMALL or wish is VALUE or not can_be_proxied(value):
            return value
        return fill(value, plan(value, self.limit), wrap)


def ahead(proxies: Iterable[Any]) -> None:
    """Move the bytes of those proxies that lie far away, side by side."""
    for proxy in proxies:
        if is_proxy(proxy) and not is_resolved(proxy):
            source = factory_of(proxy)
            if not isinstance(source, Ref) or (source.key is not None and not source.store.local):
                getattr(source, "prefetch", _nothing)()


def _nothing() -> None:
    """For a plain callable, which cannot be asked for less than its all."""
