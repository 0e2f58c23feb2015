"""`tiers://?to=memory://;limit=256MiB&to=shm://;limit=4GiB&to=redis://store`: copies nearby of what lies far away.

The last tier is home: objects lie there, and keys are its keys. The tiers before it, nearest first, hold copies of what
was put or got here. A near tier that is given no name gets one that follows from home's URL, so all processes of a
machine share its copies. Copies of what lives with a process go with it, but for those in other processes' `memory://`.

Promises:
1. `get` asks the nearest tier first; what it finds farther away is copied to the nearer ones. A near tier that fails or
   is full costs time, never an answer.
2. Only objects with drawn keys are copied: they are written once, so a copy is right for as long as the object is
   there. What people named may be replaced at any time, and is always read at home; so are `exists`, `stat`, `wait`.
3. `evict`, `replace`, `renew` and `clear` act at home and on the near tiers of this URL on this machine. Other copies,
   on another machine or in another process's `memory://`, may still be read until they are dropped there or their
   `keep` seconds (an hour) have passed.
4. `write=through` (the default) has stored an object at home when `put` returns. `write=back` has stored it in the tier
   before home, copies it home in the background, and keeps it there until that is done; `flush` and `close` wait for
   it and say what failed. Until then other machines find it missing, and the end of this process may lose it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

from proxyfab.abc import BaseConnector, Finding, Reclaimed, Stat, SupportsReap, check_batch, check_range, check_ttl
from proxyfab.abilities import claiming, shared
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.homeward import Homeward
from proxyfab.keys import Fresh, Key
from proxyfab.nearby import Nearby
from proxyfab.opening import open_connector
from proxyfab.routing import parse_route, route_text
from proxyfab.spec import ConnectorSpec, namespace_of

KEEP = 3600.0
_RECKONING = 0.1
LIMIT = 256 * 2**20
_DRAWN = re.compile(r"[0-9a-f]{32}")
_WRITES = ("through", "back")
_LODGING = ("shm", "file")
"""Schemes whose drawn names tell the process that they end with."""


class TieredConnector(BaseConnector):
    """A home and near tiers with copies. Thread-safe and fork-safe as the children are.

    Args:
        near: Connectors for copies and the bytes that each may hold, nearest first. Their namespaces hold nothing else.
        home: Where objects lie. All are closed with this one.
        write: `"through"` or `"back"`; rule 4.
        keep: Seconds that a copy is kept.
    """

    scheme: ClassVar[str] = "tiers"
    plain: ClassVar[type[Any] | None] = None

    def __new__(cls, _near: Sequence[tuple[Any, int | str]], home: Any, **_: Any) -> TieredConnector:
        """An instance of a class that claims what home has."""
        return super().__new__(claiming(cls.plain or cls, shared([home])))

    def __init__(
        self, near: Sequence[tuple[Any, int | str]], home: Any, *, write: str = "through", keep: float = KEEP
    ) -> None:
        if write not in _WRITES or (write == "back" and not near):
            raise ConfigurationError(f"write={write!r} makes no sense here; write=back needs a tier before home.")
        check_ttl(keep)
        self.near = [Nearby(child, limit, keep) for child, limit in near]
        self.home = home
        self.write = write
        self.keep = keep
        places = [home.spec, *(tier.child.spec for tier in self.near)]
        if len(set(places)) < len(places):
            raise ConfigurationError(f"Two tiers are the same place: {', '.join(places)}.")
        self.checksums = any(child.checksums for child in self._children)  # type: ignore[misc]  # it is the children's
        self._homeward = Homeward(self.near[-1], home) if write == "back" else None
        self._closed = False
        self._where = ""

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> TieredConnector:
        options = ConnectorSpec.parse(url).options
        tiers = [parse_route(text) for option, text in options if option == "to"]
        others = [option for option in options if option[0] != "to"]
        unknown = sorted(set(dict(others)) - {"write", "keep"})
        if unknown or len(dict(others)) < len(others) or not tiers or tiers[-1][1]:
            raise ConfigurationError(f"{url!r} makes no sense: tiers://?to=memory://;limit=1GiB&to=file:///scratch/me.")
        home = open_connector(tiers[-1][0], name=name)
        near = [(_open_near(place, home.spec), _limit(conditions)) for place, conditions in tiers[:-1]]
        return cls(near, home, write=dict(others).get("write", "through"), keep=_seconds(dict(others).get("keep")))

    @property
    def spec(self) -> str:
        near = [("to", route_text(tier.child.spec, f"limit={tier.limit}")) for tier in self.near]
        write = [] if self.write == "through" else [("write", self.write)]
        keep = [] if self.keep == KEEP else [("keep", f"{self.keep:g}")]
        home = ("to", route_text(self.home.spec, ""))
        return str(ConnectorSpec("tiers", options=(*near, home, *write, *keep)))

    @property
    def place(self) -> str:
        return str(self.home.place)

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return all(child.local for child in self._children)

    @property
    def wait_bound(self) -> float:  # type: ignore[override]  # as above
        return float(self.home.wait_bound)

    def __reduce__(self) -> tuple[Any, ...]:
        near = [(tier.child, tier.limit) for tier in self.near]
        return _rebuild, (self.plain or type(self), near, self.home, self.write, self.keep)

    # -- reading -------------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return self._use().reserve()  # type: ignore[no-any-return]

    def get(self, key: Key) -> Frames | None:
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        home = self._use()
        found: dict[str, Frames] = {}
        wanted = {key.id: key for key in keys if self._copied(key)}
        before: dict[str, Stat | None] = {}
        for number, tier in enumerate(self.near):
            missing = [id for id in wanted if id not in found]
            fresh = tier.get(missing) if missing else {}
            found.update(fresh)
            for id in fresh if number else ():
                self._copy_up(wanted[id], fresh[id], self.near[:number], before[id])
            before = before or {id: self._seen(wanted[id]) for id in missing if id not in fresh}
        rest = [key for key in keys if key.id not in found]
        brought = dict(zip(rest, home.get_many(rest), strict=True)) if rest else {}
        for key, frames in brought.items():
            if frames is not None and key.id in before:
                self._copy_up(key, frames, self.near, before[key.id])
        return [found[key.id] if key.id in found else brought[key] for key in keys]

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        home = self._use()
        for tier in self.near if self._copied(key) else ():
            part = tier.get_range(key.id, offset, length)
            if part is not None:
                return part
        return home.get_range(key, offset, length)  # type: ignore[no-any-return]

    def exists(self, key: Key) -> bool:
        return bool(self._settled(key).exists(key))

    def stat(self, key: Key) -> Stat | None:
        return self._settled(key).stat(key)  # type: ignore[no-any-return]

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        return self._settled(*keys).wait_any(keys, timeout)  # type: ignore[no-any-return]

    def _seen(self, key: Key) -> Stat | None:
        """What lies at home; None also where nobody can tell.

        A place that says how long an object has still to live said that a little ago, when its answer is here.
        """
        with contextlib.suppress(ConnectorError):
            asked = time.time()
            stat: Stat | None = self.home.stat(key)
            if stat is None or stat.expires is None:
                return stat
            return stat._replace(expires=stat.expires - max(time.time() - asked, 0.0))
        return None

    def _copy_up(self, key: Key, frames: Frames, tiers: Sequence[Nearby], before: Stat | None) -> None:
        """Copy what was read; `before` is what lay at home when that began."""
        if before is None:
            return
        for tier in tiers:
            tier.add(key.id, frames, before.expires)
        if not _same(before, self._seen(key)):  # evicted, replaced or renewed while we copied
            self._drop([key])

    def _copied(self, key: Key) -> bool:
        """Whether an object may have copies: it is written once, and lies in no other namespace of home's place."""
        if not _DRAWN.fullmatch(key.id):
            return False
        if key.where and key.where != self._where:
            self._where = self.home.reserve().where  # a connector may learn it by its first operation
        # A place may learn its own name by its first operation: a key drawn before, `/namespace`, lacks it.
        early = key.where[:1] == "/" and self._where.endswith(key.where)
        return early or key.where in ("", self._where)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        home = self._use()
        expires = None if ttl is None else time.time() + ttl
        if (key is None or type(key) is Fresh) and self.write == "back":
            done: Key = home.reserve() if key is None else key.plain()
            if self._homeward is not None and self.near[-1].add(done.id, frames, expires, pinned=True):
                self._homeward.send(done, expires)
                return done
        if key is not None and type(key) is not Fresh:
            self._settled(key)
        with self._dropping([key] if replace and key is not None else ()):
            done = home.put(frames, key=key, ttl=ttl, replace=replace)
        for tier in self.near if self._copied(done) else ():
            tier.add(done.id, frames, expires)
        return done

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        check_batch(many, keys)
        check_ttl(ttl)
        if self.write == "back" or not all(type(key) is Fresh for key in keys or ()):
            return super().put_many(many, keys=keys, ttl=ttl, replace=replace)
        expires = None if ttl is None else time.time() + ttl
        done: list[Key] = self._use().put_many(many, keys=keys, ttl=ttl)
        for key, frames in zip(done, many, strict=True):
            for tier in self.near:
                tier.add(key.id, frames, expires)
        return done

    def evict(self, key: Key) -> bool:
        return self.evict_many([key])[0]

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        if self._homeward is not None:
            self._homeward.let_go(keys)
        for key in keys:
            self._settled(key)
        with self._dropping(keys):
            return self._use().evict_many(keys)  # type: ignore[no-any-return]

    def renew(self, key: Key, ttl: float | None) -> bool:
        with self._dropping([key]):
            return bool(self._settled(key).renew(key, ttl))

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        with self._dropping([key]):
            return bool(self._settled(key).compare_and_set(key, old, new, ttl=ttl))

    @contextlib.contextmanager
    def _dropping(self, keys: Sequence[Key]) -> Iterator[None]:
        """Copies go behind what happens to the object (see `_copy_up`), also where its answer was lost."""
        try:
            yield
        finally:
            self._drop(keys)

    def _drop(self, keys: Sequence[Key]) -> None:
        if self._homeward is not None:
            self._homeward.forget(keys)
        ids = [key.id for key in keys if _DRAWN.fullmatch(key.id)]
        for tier in self.near if ids else ():
            tier.drop(ids)

    # -- writing back --------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was put has come home; what could not before is tried again.

        Raises:
            ConnectorError: Some of it could not; it is still in the tier before home, and the next `flush` tries again.
            ResolveTimeout: It has not within `timeout` seconds.
        """
        if self._homeward is not None:
            self._homeward.flush(timeout)

    def _settled(self, *keys: Key) -> Any:
        """Home, as soon as what was put under these keys has come there."""
        home = self._use()
        if self._homeward is not None:
            self._homeward.settle(keys)
        return home

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        self.flush()
        return self._use().scan()  # type: ignore[no-any-return]

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        home = self._use()
        for tier in self.near:
            if not dry_run and isinstance(tier.child, SupportsReap):
                tier.child.reap()  # copies are not told of: nothing was lost with them
        return home.reap(dry_run=dry_run)  # type: ignore[no-any-return]

    def clear(self) -> int:
        home = self._use()
        if self._homeward is not None:
            self._homeward.forget_all()
        count = int(home.clear())
        for tier in self.near:
            tier.clear()
        return count

    def diagnose(self) -> Iterator[Finding]:
        return self.home.diagnose()  # type: ignore[no-any-return]

    def close(self) -> None:
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            for child in self._children:
                child.close()

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _children(self) -> list[Any]:
        return [*(tier.child for tier in self.near), self.home]

    def _use(self) -> Any:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        return self.home


def _same(one: Stat, other: Stat | None) -> bool:
    """Whether nothing happened to an object between two looks; a place may reckon its end anew each time."""
    if other is None or (one.created, one.nbytes) != (other.created, other.nbytes):
        return False
    return one.expires == other.expires or abs((one.expires or 0) - (other.expires or 0)) < _RECKONING


def _open_near(url: str, home: str) -> Any:
    """A near tier. Without a name of its own it gets one from home's, and its copies end where home ends."""
    parts, namespace = ConnectorSpec.parse(url), namespace_of(home)
    if namespace_of(url):
        return open_connector(url)
    if namespace.startswith("~") and parts.scheme in _LODGING and ConnectorSpec.parse(home).scheme not in _LODGING:
        return open_connector(url)  # a name that a server's client drew tells no owner: this process is the copies'
    if namespace.startswith("~") and parts.scheme == "shm":
        return open_connector(str(parts._replace(host=namespace)))
    if namespace.startswith("~") and parts.scheme == "file":
        return open_connector(str(parts._replace(options=(*parts.options, ("ns", namespace)))))
    return open_connector(url, name=f"tier-{blake2b(home.encode(), digest_size=6).hexdigest()}")


def _limit(conditions: str) -> str | int:
    name, _, value = conditions.partition("=")
    if conditions and name != "limit":
        raise ConfigurationError(f"A tier knows limit= and not {conditions!r}: to=memory://;limit=256MiB.")
    return value if conditions else LIMIT


def _seconds(text: str | None) -> float:
    try:
        return KEEP if text is None else float(text)
    except ValueError:
        raise ConfigurationError(f"keep={text!r} is not a number of seconds.") from None


def _rebuild(kind: Any, near: Sequence[tuple[Any, int]], home: Any, write: str, keep: float) -> TieredConnector:
    return kind(near, home, write=write, keep=keep)  # type: ignore[no-any-return]
