"""Client: Dask's, whose large arguments travel by reference; and the same for clients that others have made.

Promises: wherever the scheduler, a worker or this version of Dask does not allow it, the client is a plain one, and
says so once. It never waits longer for us than `TIMEOUT`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable
from typing import Any

import dask
import distributed
from tornado.ioloop import PeriodicCallback

from proxyfab.errors import ConfigurationError
from proxyfab.integrations.dask.home import HELLO, Home, mark_of, sight, version
from proxyfab.integrations.dask.home import PLAIN as TURN_PLAIN
from proxyfab.integrations.dask.keeping import Keeping
from proxyfab.integrations.dask.link import Link
from proxyfab.integrations.dask.near import Near
from proxyfab.integrations.dask.pace import CLIENT, Paced, paced
from proxyfab.integrations.dask.results import handles_stay, unkept
from proxyfab.integrations.dask.scheduler import Keeper
from proxyfab.integrations.dask.settings import Settings, settings
from proxyfab.integrations.dask.worker import NAME, Hand
from proxyfab.store import received_store

logger = logging.getLogger("proxyfab.dask")

TIMEOUT = 20.0
"""Seconds for the talk with the scheduler when a client starts."""
TIDY = 500
"""Milliseconds between two looks at which claims are over."""
PLAIN = distributed.Client
"""Dask's own, also where somebody puts ours in its place."""
GRAPH = ("self", "expr", "keys", "span_metadata")
"""How Dask's `_graph_to_futures` begins where we know what it does."""
BEFORE = ("self", "dsk", "keys", "span_metadata")
"""How it began before 2025.4."""


class ByReference(distributed.Client):  # type: ignore[misc]  # Dask has no types
    """What of a client is ours; beneath whatever class the client is of."""

    _proxyfab: Link | None = None
    _proxyfab_settings: Settings | None = None
    _proxyfab_near: Near | None = None
    _proxyfab_plain: str = ""
    _proxyfab_paced: Paced | None = None

    @functools.wraps(PLAIN.submit)
    def submit(self, func: Any, *args: Any, proxyfab: bool = True, **kwargs: Any) -> Any:
        link = self._proxyfab
        if link is None:
            return super().submit(func, *args, **kwargs)
        if link.is_light(func, args, kwargs) or not proxyfab or not link.wanted():
            return link.plainly(super().submit, func, *args, **kwargs)
        return link.submit(super().submit, func, args, kwargs)

    @functools.wraps(PLAIN.map)
    def map(self, func: Any, *iterables: Any, proxyfab: bool = True, **kwargs: Any) -> Any:
        link = self._proxyfab
        if link is None or link.is_inside():
            return super().map(func, *iterables, **kwargs)
        if not proxyfab or not link.wanted():
            return link.plainly(super().map, func, *iterables, **kwargs)
        return link.map(super().map, func, iterables, kwargs)

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        link = self._proxyfab
        if link is None or link.is_over() or not link.wanted():
            return super()._graph_to_futures(expr, keys, *args, **kwargs)
        return link.graph(super()._graph_to_futures, expr, keys, *args, **kwargs)

    def _gather(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._gather(*args, **kwargs)
        return _unkept(found) if self._stores_results() else found

    async def _gather_remote(self, *args: Any, **kwargs: Any) -> Any:
        if self._proxyfab is None:
            return await super()._gather_remote(*args, **kwargs)
        came: list[None] = []
        before = handles_stay.set(lambda: came.append(None))
        try:
            answer = await super()._gather_remote(*args, **kwargs)
        finally:
            handles_stay.reset(before)
        if came and answer["status"] == "OK" and not self._stores_results():  # somebody else's results do
            answer["data"] = await unkept(answer["data"])
        return answer

    def _stores_results(self) -> bool:
        return self._proxyfab is not None and self._proxyfab.stores_results

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        await super()._start(*args, **kwargs)
        await begin(self)
        return self

    async def _reconnect(self) -> None:
        end(self)  # another scheduler may have come, which knows nothing of us
        await super()._reconnect()
        if self.status == "running":
            await begin(self)

    async def _close(self, *args: Any, **kwargs: Any) -> Any:
        end(self)
        return await super()._close(*args, **kwargs)


class Client(ByReference):
    """`distributed.Client`, with large arguments and results by reference.

    Args:
        store: URL of a store, or a Store; None for shared memory that the scheduler's process owns.
        above: How large an object is that travels by reference, as a number of bytes or `"1 MiB"`.
        lazy: Whether tasks get proxies in place of real objects.
        results: `"transport"` (they stay with Dask's workers) or `"store"`.

    All others are `distributed.Client`'s. Those that are None come from Dask's configuration, `proxyfab.dask.*`.
    """

    def __init__(
        self,
        *args: Any,
        store: Any = None,
        above: int | str | None = None,
        lazy: bool | None = None,
        results: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._proxyfab_settings = settings(getattr(store, "url", store), above, lazy, results)
        super().__init__(*args, **kwargs)


def enable(
    client: Any,
    *,
    store: Any = None,
    above: int | str | None = None,
    lazy: bool | None = None,
    results: str | None = None,
) -> Any:
    """Have a client that somebody else made pass large arguments by reference; the arguments are those of Client.

    Returns:
        The client; of an asynchronous one an awaitable of it.

    Raises:
        ConfigurationError: This is no client of Dask's, or an argument makes no sense.
    """
    if not isinstance(client, PLAIN):
        raise ConfigurationError(f"A {type(client).__qualname__} is no client of Dask's; enable() takes those alone.")
    chosen = settings(getattr(store, "url", store), above, lazy, results)
    _dress(client, chosen)
    return client.sync(_begun, client)


def disable(client: Any) -> Any:
    """Make a client a plain one again, also when it connects anew. Its tasks, and what they need, stay."""
    if isinstance(client, ByReference):
        client._proxyfab_settings = Settings(enabled=False)
    if client.asynchronous or client.status != "running":
        end(client)
    else:
        client.sync(_ended, client)  # timers and connections belong to its loop
    kind = type(client)
    if kind in _plain:
        client.__class__ = _plain[kind]
    return client


async def dress(client: Any) -> None:
    """`enable` with what the configuration says, for a client that is about to start."""
    if not isinstance(client, ByReference):
        _dress(client, settings())
        await begin(client)


_plain: dict[type, type] = {}
_dressed: dict[type, type] = {}


def _dress(client: Any, chosen: Settings) -> None:
    """Give a client our methods, whatever its class is."""
    kind = type(client)
    client._proxyfab_settings = chosen
    if isinstance(client, ByReference):
        return
    if kind not in _dressed:
        made = type(kind.__name__, (ByReference, kind), {"__module__": kind.__module__})
        _dressed[kind], _plain[made] = made, kind
    client.__class__ = _dressed[kind]


async def _unkept(gathered: Awaitable[Any]) -> Any:
    return await unkept(await gathered)


async def _begun(client: Any) -> Any:
    end(client)
    await begin(client)
    return client


async def _ended(client: Any) -> None:
    end(client)


def _is_not_users_code() -> None:
    """Have Dask not show what of us lies between it and the code that calls it."""
    name = "distributed.diagnostics.computations.ignore-modules"
    ignored = dask.config.get(name, None) or []
    if "proxyfab" not in ignored:
        dask.config.set({name: [*ignored, "proxyfab"]})


async def begin(client: Any) -> None:
    """Meet the scheduler and go by reference from now on; a plain client, with one warning, where that cannot be."""
    chosen = client._proxyfab_settings or settings()
    if client._proxyfab is not None or not chosen.enabled or client.status != "running":
        return
    _is_not_users_code()
    try:
        client._proxyfab_plain = ""
        client._proxyfab = await asyncio.wait_for(_met(client, chosen), TIMEOUT)
        client._proxyfab_paced = paced(client.scheduler_comm, CLIENT)
        if client._proxyfab_plain:
            _retire(client, client._proxyfab_plain)
    except Exception as error:  # noqa: BLE001 - whatever it is, plain Dask works
        what = "it took too long" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        logger.warning("proxyfab is not used by %r, which is a plain Dask client now: %s", client.id, what)
        end(client)


def end(client: Any) -> None:
    """The client is a plain one from now on. What it claimed ends at the scheduler."""
    link, client._proxyfab = getattr(client, "_proxyfab", None), None
    callback = client._periodic_callbacks.pop("proxyfab", None)
    if callback is not None:
        callback.stop()
    if link is not None:
        link.leave()
    near, client._proxyfab_near = getattr(client, "_proxyfab_near", None), None
    if near is not None:
        near.detach()
    quick, client._proxyfab_paced = getattr(client, "_proxyfab_paced", None), None
    if quick is not None:
        quick.restore()


async def _met(client: Any, chosen: Settings) -> Link:
    known = tuple(inspect.signature(PLAIN._graph_to_futures).parameters)[: len(GRAPH)]
    graphs = known in (GRAPH, BEFORE)
    if not graphs:
        logger.warning("Graphs of collections go as ever: this Dask, %s, has others.", distributed.__version__)
    client._stream_handlers[TURN_PLAIN] = functools.partial(_retire, client)
    if client.scheduler.address.startswith("inproc://"):
        return Link(client, chosen, None, graphs=False)  # one process: Dask hands objects over as they are
    await client._register_scheduler_plugin(Keeper(), name=NAME, idempotent=True)
    words = {"client": client.id, "version": version(), "store": chosen.store, "results": chosen.results}
    home = Home.told(await getattr(client.scheduler, HELLO)(**words))
    _check(home)
    await client._register_worker_plugin(Hand(chosen), name=NAME, idempotent=True)
    if "pickle" in (client._deserializers or ("pickle",)):  # else nothing that is pickled may come to it
        client._proxyfab_near = Near(client)
        client._proxyfab_near.attach()
    if chosen.store is None and home.sight != sight():
        logger.info("The scheduler of %r does not see our shared memory: arguments go by plain Dask.", client.id)
        return Link(client, chosen, None, graphs=False)
    store = received_store(home.url)
    callback = PeriodicCallback(lambda: _tidy(client), TIDY)
    client._periodic_callbacks[NAME] = callback
    callback.start()
    where = home.sight if home.url.startswith("shm://") else ""
    keeping = Keeping(store, client._send_to_scheduler, mark_of(client.id), where)
    return Link(client, chosen, keeping, graphs=graphs)


def _retire(client: Any, why: str, away: bool = False) -> None:
    """A plain client from now on, as far as its arguments go; what is under way by reference goes on.

    Args:
        client: Of ours.
        why: A worker that has come, and what it lacks.
        away: It was sent away, and the client stays as it is.
    """
    link = client._proxyfab
    if away:
        if link is not None:
            link.complain("stranger", f"It was sent away, since results lie in a store: {why}.")
        return
    client._proxyfab_plain = why  # for a client that is still about to begin, too
    if link is not None and link.retire():
        logger.warning("proxyfab is not used any more by %r, which is a plain Dask client now: %s", client.id, why)


def _check(home: Home) -> None:
    if home.error:
        raise ConfigurationError(f"its scheduler has no store: {home.error}")
    if home.version != version():
        raise ConfigurationError(
            f"its scheduler has proxyfab {home.version}, and this is {version()}; install the same"
        )
    if home.missing:
        names = ", ".join(home.missing[:3])
        raise ConfigurationError(f"these workers have no proxyfab, or not {version()}: {names}; install it there")


def _tidy(client: Any) -> None:
    link = client._proxyfab
    if link is not None:
        link.tidy()
