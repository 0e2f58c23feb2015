"""`globus://?at=COLLECTION,/path,/local&at=...`: objects as files at any number of sites, moved by Globus Transfer.

Promises: what `abc` numbers, at each site. What lies at this site is read without any request. A put is written here
and, with `push` (the default), sent to the other sites soon, many in one task; without, who reads it fetches it. A key
tells the collection it was drawn at; a put under it elsewhere is brought there. Errors carry the service's reason.
Not promised: that other sites see an eviction or a replacement at once, or ever, once they have read the object.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

from proxyfab.abc import (
    BaseConnector,
    Connector,
    Reclaimed,
    Stat,
    SupportsReap,
    SupportsScan,
    check_range,
    check_timeout,
)
from proxyfab.buffers import Frames
from proxyfab.connectors.globus.courier import Courier
from proxyfab.connectors.globus.flights import Order
from proxyfab.connectors.globus.journal import Journal
from proxyfab.connectors.globus.layout import TRAILER, Item, arrived, closed_with_digest, incoming, let_go, stored
from proxyfab.connectors.globus.outbox import Lane, Limits
from proxyfab.connectors.globus.sites import Site, local_site
from proxyfab.errors import ConfigurationError, ConnectorError, KeyExists, ResolveTimeout
from proxyfab.keys import Fresh, Key
from proxyfab.registry import load
from proxyfab.spec import ConnectorSpec, flag, nbytes

_FEW = 4
_LINGER = 0.2
_LOOKS = 0.02, 0.5
_ASKING = 30.0


class GlobusConnector(BaseConnector):
    """Objects at several sites.

    Args:
        sites: All of them, as `at=` in the URL or as `Site`.
        name: Of the namespace; without one it lives with this process, at this site.
        here: The collection of this site; None where one is the only one, or the environment or host tells.
        push: Whether a put is sent to all other sites, before anybody asks for it.
        patience: Seconds until a transfer is given up, by the service and by who waits.
        grace: Seconds for which a task may report an error before it is given up.
        limits: When a load is sent.
    """

    scheme: ClassVar[str] = "globus"
    checksums: ClassVar[bool] = True
    wait_bound: float = 0.5

    def __init__(
        self,
        sites: Sequence[Site | str],
        *,
        name: str | None = None,
        here: str | None = None,
        push: bool = True,
        patience: float = 3600.0,
        grace: float = 60.0,
        limits: Limits | None = None,
    ) -> None:
        if not (patience > 0 and grace >= 0):
            raise ConfigurationError(f"patience= and grace= are seconds, not {patience!r} and {grace!r}.")
        self.sites = tuple(site if isinstance(site, Site) else Site.parse(site) for site in sites)
        self.here = local_site(self.sites, here)
        self.push, self.patience, self.grace = push, patience, grace
        self.limits = limits or Limits(linger=_LINGER)
        self._files: Connector = load("connectors", "file")(f"{self.here.local}/objects", name=name)
        self.space = dict(ConnectorSpec.parse(self._files.spec).options)["ns"]
        self._others = tuple(site for site in self.sites if site != self.here)
        journal = Journal(f"{self.here.local}/outbox/{self.space}")
        label = "proxyfab " + re.sub(r"[^A-Za-z0-9 _-]", "-", self.space)
        self._courier = Courier(self.sites, journal, label, self.limits, patience=patience, grace=grace)
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> GlobusConnector:
        spec = ConnectorSpec.parse(url)
        sites = [value for option, value in spec.options if option == "at"]
        rest = spec._replace(options=tuple(option for option in spec.options if option[0] != "at"))
        given = rest.take("ns", "push", "patience", "grace", "count", "bytes", "linger")
        if spec.host or spec.path:
            raise ConfigurationError(f"{url!r} names no sites; write globus://?at=COLLECTION,/path/on/it,/path/here.")
        try:
            limits = Limits(
                int(given.get("count", Limits().objects)),
                nbytes(given.get("bytes", Limits().nbytes)),
                float(given.get("linger", _LINGER)),
            )
            patience, grace = float(given.get("patience", 3600)), float(given.get("grace", 60))
        except ValueError as error:
            raise ConfigurationError(f"{url!r} holds an option that is no number: {error}.") from error
        push = flag(rest, "push")
        return cls(
            sites,
            name=name or given.get("ns"),
            push=push is not False,
            patience=patience,
            grace=grace,
            limits=limits,
        )

    @property
    def spec(self) -> str:
        usual = Limits(linger=_LINGER)
        extra = {
            "push": ("0", self.push),
            "patience": (f"{self.patience:g}", self.patience == 3600),
            "grace": (f"{self.grace:g}", self.grace == 60),
            "count": (str(self.limits.objects), self.limits.objects == usual.objects),
            "bytes": (str(self.limits.nbytes), self.limits.nbytes == usual.nbytes),
            "linger": (f"{self.limits.linger:g}", self.limits.linger == usual.linger),
        }
        options = [("at", str(site)) for site in self.sites] + [("ns", self.space)]
        options += [(name, text) for name, (text, is_usual) in extra.items() if not is_usual]
        return str(ConnectorSpec("globus", options=tuple(options)))

    @property
    def place(self) -> str:
        return f"globus:{self.here.collection}"

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return self._files.local

    # -- one object ----------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw(self._where(self.space))

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        return self.put_many([frames], keys=None if key is None else [key], ttl=ttl, replace=replace)[0]

    def get(self, key: Key) -> Frames | None:
        return self.get_many([key])[0]

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        found = self.get(key)
        return None if found is None else found.slice(offset, length)

    def stat(self, key: Key) -> Stat | None:
        found = self._stat_here(key)
        if found is not None or not self._others:
            return found
        home, item = self._home(key), self._item(key)
        if home == self.here:
            return None
        seen = self._courier.ask(lambda service: service.stat(home.collection, stored(home.path, item)), _ASKING)
        if seen is None:
            return None
        return Stat(key.at(self._where(item.space, home)), int(seen["size"]) - TRAILER - 64, 0.0, None, item.space, "")

    def evict(self, key: Key) -> bool:
        return self.evict_many([key])[0]

    def clear(self) -> int:
        """Evict all that lies in the namespace here, here and at the other sites.

        Raises:
            AccessDenied: The directory was not made by proxyfab; nothing was deleted anywhere.
        """
        items = [self._item(stat.key) for stat in self.scan() if stat.namespace == self.space]
        cleared = self._files.clear()
        for path in incoming(self.here, self.space):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._delete_elsewhere(items)
        return cleared

    def close(self) -> None:
        """Submit what waits to be sent; deletes nothing."""
        if not self._closed:
            self._closed = True
            self._courier.close()
            self._files.close()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was put here has arrived, and all that was evicted is gone, everywhere.

        Raises:
            TransferFailed: Something was not moved; further errors say why.
            ResolveTimeout: `timeout` seconds (None: as long as transfers may take) have passed.
        """
        check_timeout(timeout, 0)
        self._use()
        self._courier.flush(self.patience if timeout is None else timeout)

    # -- many ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        self._use()
        for key in keys or ():  # what has arrived, and is not read yet, is there
            if not replace and type(key) is not Fresh:
                self._take_in(key)
        near = None if keys is None else [self._near(key) for key in keys]
        done = self._files.put_many([closed_with_digest(each) for each in many], keys=near, ttl=ttl, replace=replace)
        homes = [self.here] * len(done) if keys is None else [self._home(key) for key in keys]
        items = [self._item(key) for key in done]
        for site in self._others:
            load = {
                item: frames.nbytes
                for item, home, frames in zip(items, homes, many, strict=True)
                if self.push or home == site
            }
            if load:
                self._courier.send(Lane(self.here.collection, site.collection), load)
        return [key.at(self._where(item.space, home)) for key, item, home in zip(done, items, homes, strict=True)]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        found = [self._get_here(key) for key in keys]
        missing = [key for key, frames in zip(keys, found, strict=True) if frames is None]
        if missing and self._others:
            self._bring(list(dict.fromkeys(missing)))
            found = [self._get_here(key) if frames is None else frames for key, frames in zip(keys, found, strict=True)]
        return found

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        self._use()
        there = [self._stat_here(key) is not None for key in keys]
        if self._others:
            there = [known or self.exists(key) for key, known in zip(keys, there, strict=True)]
        gone = self._files.evict_many([self._near(key) for key in keys])
        items = [self._item(key) for key in keys]
        self._delete_elsewhere([item for item, known in zip(items, there, strict=True) if known])
        for item in items:
            let_go(self.here, item)
        return gone if not self._others else [known or now for known, now in zip(there, gone, strict=True)]

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        """Local files are looked at every 20 ms to 0.5 s; without `push` the key's home is asked every 0.5 to 10 s."""
        check_timeout(timeout)
        self._use()
        if not keys:
            return []
        ends = float("inf") if timeout is None else time.monotonic() + timeout
        pause, asking, ask_at = _LOOKS[0], 0.5, 0.0
        while True:
            found = [key for key in keys if self._stat_here(key) is not None]
            now = time.monotonic()
            if not found and not self.push and self._others and now >= ask_at:
                found = [key for key in keys if self.exists(key)]
                ask_at, asking = now + asking, min(asking * 1.5, 10.0)
            if found or now >= ends:
                return found
            time.sleep(min(pause, ends - now))
            pause = min(pause * 1.5, _LOOKS[1])

    def scan(self) -> Iterator[Stat]:
        self._use()
        if isinstance(self._files, SupportsScan):
            for stat in self._files.scan():
                space = stat.namespace
                yield stat._replace(key=stat.key.at(self._where(space)), nbytes=stat.nbytes - TRAILER)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._use()
        return self._files.reap(dry_run=dry_run) if isinstance(self._files, SupportsReap) else []

    # -- here ----------------------------------------------------------------------------------------------------

    def _use(self) -> None:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")

    def _where(self, space: str, home: Site | None = None) -> str:
        return f"{(home or self.here).collection}/{space}"

    def _home(self, key: Key) -> Site:
        collection = key.where.partition("/")[0]
        for site in self.sites:
            if collection in ("", site.collection):
                return site if collection else self.here
        raise ConnectorError(f"{key} does not belong to {self.spec}; use the store that made it.")

    def _item(self, key: Key) -> Item:
        return Item(key.where.partition("/")[2] or self.space, key.id)

    def _near(self, key: Key) -> Key:
        """The key that the files of this site know."""
        self._home(key)
        near = key.at(f"/{self._item(key).space}")
        return Fresh.of(near) if type(key) is Fresh else near

    def _get_here(self, key: Key) -> Frames | None:
        self._use()
        near = self._near(key)
        found = self._files.get(near)
        if found is None and self._take_in(key):
            found = self._files.get(near)
        return None if found is None else found.slice(0, found.nbytes - TRAILER)

    def _stat_here(self, key: Key) -> Stat | None:
        self._use()
        near = self._near(key)
        found = self._files.stat(near)
        if found is None and self._take_in(key):
            found = self._files.stat(near)
        if found is None:
            return None
        where = self._where(found.namespace, self._home(key))
        return found._replace(key=key.at(where), nbytes=found.nbytes - TRAILER)

    def _take_in(self, key: Key) -> bool:
        """Write what has arrived whole where objects lie. A copy, since a transfer may still hold the file open."""
        if not self._others:
            return False
        item = self._item(key)
        found = arrived(self.here, item)
        if found is None:
            return False
        slot, payload = found
        left = slot.expires - time.time() if slot.expires else None
        if left is None or left > 0:
            with contextlib.suppress(KeyExists):
                self._files.put(Frames((payload,)), key=self._near(key), ttl=left)
        let_go(self.here, item)
        return left is None or left > 0

    # -- elsewhere -----------------------------------------------------------------------------------------------

    def _delete_elsewhere(self, items: Sequence[Item]) -> None:
        for item in items:
            self._courier.withdraw(item)
        for site in self._others:
            if items:
                self._courier.send(Lane("", site.collection), dict.fromkeys(items, 0))

    def _bring(self, keys: list[Key]) -> None:
        """Fetch what other sites hold, as far as they do; see docs/globus.md for the order of steps."""
        ends = time.monotonic() + self.patience
        if self.push:
            keys = self._await_pushes(keys, ends)
        lanes: dict[Site, list[Key]] = {}
        for key in keys:
            home = self._home(key)
            if home != self.here and (len(keys) > _FEW or self.exists(key)):
                lanes.setdefault(home, []).append(key)
        orders = []
        for home, wanted in lanes.items():
            lane = Lane(home.collection, self.here.collection)
            orders.append(self._courier.order(lane, [self._item(key) for key in wanted]))
        for order, wanted in zip(orders, lanes.values(), strict=True):
            self._await(order, wanted, ends + 3.0)  # the courier's own verdict comes first
            error = next((order.errors[item] for item in map(self._item, wanted) if item in order.errors), None)
            if error is not None and any(self._stat_here(key) is None for key in wanted):
                raise error

    def _await_pushes(self, keys: list[Key], ends: float) -> list[Key]:
        """What is missing after the transfers that are under way to here now. Their errors are for who sent."""
        left = self._look_for(keys, min(ends, time.monotonic() + self.limits.linger + 0.1), None)
        if not left:
            return []
        label = self._courier.label
        ids = self._courier.ask(lambda service: service.under_way(self.here.collection, label), _ASKING)
        return self._await(self._courier.watch(ids), left, ends) if ids else left

    def _await(self, order: Order, keys: Sequence[Key], ends: float) -> list[Key]:
        try:
            left = self._look_for(keys, ends, order)
        finally:
            self._courier.drop(order)
        if left and not order.told.is_set():
            raise ResolveTimeout(f"Globus has not brought {left[0]} within {self.patience:g} s (patience=).")
        return left

    def _look_for(self, keys: Sequence[Key], ends: float, order: Order | None) -> list[Key]:
        """Those that are not here when the order is settled or the time is over."""
        pause, left = _LOOKS[0], list(keys)
        while True:
            settled = order is not None and order.told.is_set()
            left = [key for key in left if self._stat_here(key) is None]
            now = time.monotonic()
            if not left or settled or now >= ends:
                return left
            wait = min(pause, ends - now)
            if order is None:
                time.sleep(wait)
            else:
                order.told.wait(wait)
            pause = min(pause * 1.5, _LOOKS[1] / 5)
