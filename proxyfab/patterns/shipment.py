"""Shipment: the arguments of one message to a worker, packed, and what lives until that message is answered.

Promises: what is packed lives until the future is done, however it ends, also where submitting fails; a proxy among
the arguments, and so what it owns, lives as long.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from proxyfab.errors import ConnectorError
from proxyfab.patterns.crossing import Arguments, Crossing
from proxyfab.patterns.custody import Custody, Input
from proxyfab.patterns.line import Line, Sent
from proxyfab.patterns.ownership.borrows import Shared
from proxyfab.patterns.ownership.seats import Owner
from proxyfab.patterns.ownership.verbs import borrow, release, scope
from proxyfab.patterns.parcel import unsent, wrapped
from proxyfab.patterns.passing import Take, changed, once, proxies_in
from proxyfab.patterns.tasks import Task
from proxyfab.proxy import factory_of


class Shipment:
    """Packs with one function's crossing.

    Args:
        crossing: What is large.
        custody: Who stores it.
        call: The call of `map` that it belongs to.
    """

    def __init__(self, crossing: Crossing, custody: Custody, call: object = None) -> None:
        self._crossing = crossing
        self._custody = custody
        self._call = call
        self._inputs: list[Input] = []
        self._held: list[Any] = []
        self._scoped: list[Any] = []

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of one call as they are sent. What is owned or borrowed is lent; what stands in several
        places is one object in all of them.

        Raises:
            ConnectorError: One of them is large, and the store was closed.
            BorrowError: One of them is an owner's that was sent, lent mutably or has ended.
        """
        crossing, take = self._crossing, once(self._input)
        lend = once(partial(self._lent, take))
        args = tuple([self._lend(value, lend) for value in args])
        kwargs = {name: self._lend(value, lend) for name, value in kwargs.items()}
        return crossing.send(args, kwargs, take) if crossing.args else (args, kwargs)

    def _lend(self, value: Any, lend: Take) -> Any:
        depth = self._crossing.limit.depth
        found = [*proxies_in(value, depth)]
        if not any(_is_ours_to_pass(proxy) for proxy in found):
            self._held += found
            return value
        return changed(value, depth, lend)

    def _lent(self, take: Take, proxy: Any) -> Any:
        parcel = unsent(proxy)
        if parcel is not None:
            return take(parcel())
        if isinstance(factory_of(proxy), (Owner, Shared)):
            proxy = borrow(proxy, scoped=True)
            self._scoped.append(proxy)
        self._held.append(proxy)
        return proxy

    def _input(self, value: Any) -> Any:
        store = self._custody.holding.given
        if store.closed:
            raise ConnectorError(
                f"The store {store.url} was closed, and a large argument is to go there; keep the store "
                f"open as long as tasks are submitted."
            )
        made = Input(value, self._custody, self._call)
        self._inputs.append(made)
        proxy = wrapped(made)
        self._held.append(proxy)
        return proxy

    def send(
        self, executor: Executor, line: Line, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Submit what was packed."""
        if not self._held:
            return executor.submit(task, *args, **kwargs)
        sent = Sent(task, self._inputs, self._held, line)
        try:
            future = executor.submit(sent, *args, **kwargs)
        except BaseException:
            sent.done()
            for each in self._scoped:
                release(each)
            raise
        if self._scoped:
            scope(future, *self._scoped)
        future.add_done_callback(sent.done)
        return future


def _is_ours_to_pass(proxy: Any) -> bool:
    return isinstance(factory_of(proxy), (Owner, Shared)) or unsent(proxy) is not None
