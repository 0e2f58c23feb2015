"""Ways for objects to travel and to end in `benchmarks.mapreduce`: by hand, by ownership, by lifetimes; of two systems.

A Manner lives in the driver (`give`, `send`, `arrived`, `drop`) and in each worker (`use`, `answer`). Caches are off:
each get is one from the store, and no manner holds more than it has to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import numpy as np

from proxyfab import Store, ref_of, unwrap

Submit = Callable[[Any, Any], Future[Any]]


class Manner:
    """Plain proxies of proxyfab, whose objects end when somebody evicts them: which nobody does here."""

    def __init__(self, url: str, lease: float) -> None:
        self.lease = lease
        self.store: Any = self.open(url)

    def open(self, url: str) -> Any:
        """The store; a named one, so that nothing goes with a process."""
        return Store(url, name="mapreduce", cache=0, inline_below=0)

    def warm(self) -> None:
        """What a first use costs, before memory is counted."""
        given = self.give(np.zeros(8))
        self.use(given)
        self.drop([given])

    # In the driver.

    def give(self, obj: Any) -> Any:
        """An object is there to be used by one task."""
        return self.store.proxy(obj)

    def send(self, submit: Submit, function: Any, given: Any) -> Future[Any]:
        """Submit a task with it; it ends when the task is done."""
        return submit(function, given)

    def send_all(self, submit: Submit, function: Any, items: Sequence[Any]) -> Future[Any]:
        """Submit a task with several objects, which end later, by `drop`."""
        return submit(function, list(items))

    def arrived(self, answer: Any) -> None:
        """A worker has returned this, and may be killed at any time."""

    def drop(self, items: Sequence[Any]) -> None:
        """Their use is over."""

    def close(self) -> None:
        """The driver ends."""
        self.store.close()

    # In a worker.

    def use(self, argument: Any) -> Any:
        """The array itself."""
        return unwrap(argument)

    def answer(self, obj: Any) -> Any:
        """What to return for it."""
        return self.store.proxy(obj)


class Manual(Manner):
    """Plain proxies, each evicted by hand as soon as it is not used any more."""

    def send(self, submit: Submit, function: Any, given: Any) -> Future[Any]:
        future = submit(function, given)
        future.add_done_callback(lambda _: self.drop([given]))
        return future

    def drop(self, items: Sequence[Any]) -> None:
        self.store.evict_many([ref_of(item).key for item in items])


class Owned(Manner):
    """Owners and borrows: nobody evicts."""

    def give(self, obj: Any) -> Any:
        from proxyfab.patterns import own

        return own(self.store, obj, lease=self.lease)

    answer = give

    def send(self, submit: Submit, function: Any, given: Any) -> Future[Any]:
        from proxyfab.patterns import borrow, scope

        lent = borrow(given, scoped=True)
        future = submit(function, lent)
        scope(future, lent, given)
        return future

    def send_all(self, submit: Submit, function: Any, items: Sequence[Any]) -> Future[Any]:
        from proxyfab.patterns import borrow, scope

        lent = [borrow(item, scoped=True) for item in items]
        future = submit(function, lent)
        scope(future, *lent)
        return future

    def arrived(self, answer: Any) -> None:
        from proxyfab.patterns import borrow

        borrow(answer, scoped=True)  # whoever uses it first has it: from now on it does not need its worker


class Lived(Manner):
    """A task's objects in a lifetime that ends with it; what workers return expires unless the driver takes it over."""

    def __init__(self, url: str, lease: float) -> None:
        super().__init__(url, lease)
        self._lives: dict[Any, Any] = {}

    def give(self, obj: Any) -> Any:
        from proxyfab.patterns import Lifetime

        life = Lifetime(self.store, lease=self.lease)
        proxy = life.proxy(obj)
        self._lives[ref_of(proxy).key] = life
        return proxy

    def send(self, submit: Submit, function: Any, given: Any) -> Future[Any]:
        future = submit(function, given)
        future.add_done_callback(lambda _: self.drop([given]))
        return future

    def arrived(self, answer: Any) -> None:
        from proxyfab.patterns import Lifetime

        life = self._lives[ref_of(answer).key] = Lifetime(self.store, lease=self.lease)
        life.add(answer)

    def drop(self, items: Sequence[Any]) -> None:
        for item in items:
            self._lives.pop(ref_of(item).key).close()

    def answer(self, obj: Any) -> Any:
        return self.store.proxy(obj, ttl=1.5 * self.lease)


class Theirs(Manner):
    """ProxyStore's default proxies, which nobody evicts."""

    name: ClassVar[str] = "mapreduce"

    def open(self, url: str) -> Any:
        from proxystore.connectors.redis import RedisConnector
        from proxystore.store import get_or_create_store
        from proxystore.store.base import Store as TheirStore

        host, _, port = url.partition("//")[2].partition("/")[0].partition(":")
        config = TheirStore(self.name, RedisConnector(host, int(port)), cache_size=0).config()
        return get_or_create_store(config)

    def use(self, argument: Any) -> Any:
        from proxystore.proxy import extract

        return extract(argument)


class TheirsOwned(Theirs):
    """ProxyStore's OwnedProxy, borrowed for each task in its scope."""

    def give(self, obj: Any) -> Any:
        return self.store.owned_proxy(obj)

    answer = give

    def send(self, submit: Submit, function: Any, given: Any) -> Future[Any]:
        from proxystore.store import scopes
        from proxystore.store.ref import borrow

        return scopes.submit(submit, args=(function, borrow(given)))  # type: ignore[no-any-return]  # it has no types

    def send_all(self, submit: Submit, function: Any, items: Sequence[Any]) -> Future[Any]:
        from proxystore.store import scopes
        from proxystore.store.ref import borrow

        lent = [borrow(item) for item in items]
        future = submit(function, lent)
        future.add_done_callback(lambda _: scopes.mark_refs_out_of_scope(*lent))
        return future


MANNERS: dict[str, type[Manner]] = {
    "default": Manner,
    "manual": Manual,
    "owned": Owned,
    "lifetime": Lived,
    "proxystore": Theirs,
    "proxystore-owned": TheirsOwned,
}


def anonymous(pids: Sequence[int]) -> int:
    """Private bytes of processes and all their children, now."""
    found, rest = 0, list(pids)
    while rest:
        pid = rest.pop()
        try:
            with open(f"/proc/{pid}/status") as file:
                found += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    rest += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return found
