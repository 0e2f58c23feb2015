"""`redis://host:6379/0`: objects in a Redis, Valkey or compatible server, a cluster, or a master with sentinels.

Promises: what `abc` numbers, between machines. An object is one value, or a value that names its chunks, which nobody
sees before all of them are there. Writes leave without a copy, values are received where they stay. Only keys that
begin with `proxyfab:<namespace>:` are ever deleted; KEYS, FLUSHDB and scripts are not used. Named namespaces stay;
an unnamed one is taken back after its process has ended (`owners`). Times to live are the server's own.

A server that restarted without what it held is noticed: it has another epoch than the one in an object's key, and its
objects are ObjectLost instead of missing (not in a cluster, whose nodes have no common memory to lose). Not promised:
that a server which evicts by itself (`maxmemory-policy`) or loses a failover's last writes keeps what it acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import urandom
from typing import ClassVar, TypeVar

from proxyfab.abc import (
    LARGEST_SWAP,
    BaseConnector,
    Finding,
    Reclaimed,
    Stat,
    Status,
    Swap,
    check_batch,
    check_range,
    check_swap,
    check_timeout,
    check_ttl,
)
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import batches, bulk, changes, header, health, owners, reaping, rounds, waiting
from proxyfab.connectors.redis.bulk import Writing, milliseconds
from proxyfab.connectors.redis.errors import Torn
from proxyfab.connectors.redis.keeper import keeper
from proxyfab.connectors.redis.naming import Names
from proxyfab.connectors.redis.owners import Owner
from proxyfab.connectors.redis.rounds import each, scan
from proxyfab.errors import ConnectorError, IntegrityError, KeyExists, ObjectLost
from proxyfab.keys import Key
from proxyfab.osio.owner import this_process
from proxyfab.policy import checked_way
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import Link, pack
from proxyfab.resp.parser import LARGEST
from proxyfab.resp.place import Place
from proxyfab.retry import Backoff
from proxyfab.spec import check_name
from proxyfab.wire.slot import id_hash

T = TypeVar("T")
_PIECES = 4
"""Times that an object which changes meanwhile is read in pieces, before it is read in one."""
_PAUSES = Backoff(first=0.001, longest=0.05)


class RedisConnector(BaseConnector):
    """Objects in Redis.

    Args:
        place: Where it is.
        namespace: A name persists; one that begins with `~` belongs to the process that drew it; None draws one.
    """

    scheme: ClassVar[str] = "redis"
    checksums: ClassVar[bool] = True
    wait_bound = 0.0

    def __init__(self, place: Place, namespace: str | None = None) -> None:
        self._maker = Owner.of(this_process()) if namespace is None else None
        if namespace is None:
            namespace = f"~{urandom(6).hex()}"
        else:
            check_name(namespace.removeprefix("~"))
        self._place = place
        self.wait_outage = place.timeout
        self._namespace = namespace
        self._fleet = Fleet(place, header.EPOCH, checked_way(place.scheme))
        self._said = ""
        self._names = Names(self._fleet, namespace, self.spec)

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> RedisConnector:
        place, namespace = Place.parse(url)
        if name is not None:
            check_name(name)
        return cls(place, name or namespace)

    @property
    def spec(self) -> str:
        return self._place.url(self._namespace)

    @property
    def place(self) -> str:
        return self._place.label

    # -- one object --------------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw(self._names.here)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        self._settle()
        key = self.reserve() if key is None else key
        writing = self._writing(key, frames, ttl, replace)
        if not self._stored(writing, "put"):
            raise self._exists(key)
        return self._names.at(key)

    def get(self, key: Key) -> Frames | None:
        name, hashed = self._names.name(key), id_hash(key.id)
        found = self._read(key, lambda: self._one(name, hashed, "get"))
        if found is None:
            self._missing(key)
        return found

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        name, hashed = self._names.name(key), id_hash(key.id)
        found = self._read(
            key,
            lambda: self._steadily(name, lambda link: bulk.get_range(link, name, hashed, offset, length), "get_range"),
        )
        if found is None:
            self._missing(key)
        return found

    def exists(self, key: Key) -> bool:
        name = self._names.name(key)
        return bool(self._fleet.run(name, lambda link: link.call(b"EXISTS", name), "exists"))

    def stat(self, key: Key) -> Stat | None:
        name = self._names.name(key)
        commands = (rounds.begin(name), pack(b"PTTL", name))
        raw, left = self._fleet.run(name, lambda link: link.calls(commands), "stat")
        if not raw:
            return None
        head = self._read(key, lambda: header.unpack(raw, id_hash(key.id)))
        return self._stat(key, head, left, self._names.space(key), self._owner(self._names.space(key)))

    def evict(self, key: Key) -> bool:
        return self.evict_many([key])[0]

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        name, left = self._names.name(key), milliseconds(ttl)
        return self._fleet.run(name, lambda link: changes.renew(link, name, left), "renew")

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        check_ttl(ttl)
        self._settle()
        change = self._change(key, old, new, ttl)
        work = partial(self._knowing, lambda link: changes.compare_and_set(link, *change))
        return self._steadily(change.writing.name, work, "compare_and_set", again=False)

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(swaps), changes.MOST):
            found += self._swapped(swaps[start : start + changes.MOST])
        return found

    def _swapped(self, swaps: Sequence[Swap]) -> list[bool]:
        """Some at once, but one by one in a cluster, where keys of several slots share no transaction."""
        done: list[bool | None] = [None] * len(swaps)
        if len({swap.key.id for swap in swaps}) == len(swaps) > 1 and not self._place.cluster:
            for swap in swaps:
                check_swap(swap.old, swap.new)
                check_ttl(swap.ttl)
            self._settle()
            work = partial(changes.compare_and_set_many, wanted=[self._change(*swap) for swap in swaps])
            name = self._names.name(swaps[0].key)
            done = self._steadily(name, partial(self._knowing, work), "compare_and_set", again=False)
        alone = [swap for swap, known in zip(swaps, done, strict=True) if known is None]
        rest = iter(super().compare_and_set_many(alone))
        return [next(rest) if known is None else known for known in done]

    def _change(self, key: Key, old: Frames | None, new: Frames | None, ttl: float | None) -> changes.Change:
        writing = self._writing(key, new or Frames(), ttl, True)._replace(chunk=LARGEST_SWAP)
        return changes.Change(writing, old, None if new is None else bulk.new_header(writing))

    # -- many --------------------------------------------------------------------------------------------------------

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        check_timeout(timeout)
        names = self._names.names(keys)
        found = waiting.first(self._fleet, names, timeout) if keys else set()
        return [key for key, name in zip(keys, names, strict=True) if name in found]

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
        if not many:
            return []
        self._settle()
        keys = Key.draw_many(len(many), self._names.here) if keys is None else keys
        names, hashes = self._names.names(keys), [id_hash(key.id) for key in keys]
        items = list(zip(names, many, batches.new_headers(many, hashes), strict=True))
        left, chunk = milliseconds(ttl), self._place.chunk
        taken: list[int] = []
        alone = {place for place, frames in enumerate(many) if frames.nbytes > chunk}
        for name, places in self._fleet.groups(names):
            short = [place for place in places if many[place].nbytes <= chunk]
            some = items if len(short) == len(items) else [items[place] for place in short]
            work = partial(batches.put_many, items=some, milliseconds=left, replace=replace)
            done = self._steadily(name, partial(self._knowing, work), "put_many")
            taken += [place for place, stored in zip(short, done, strict=True) if stored is False]
            alone |= {place for place, stored in zip(short, done, strict=True) if stored not in (True, False)}
        for place in sorted(alone):
            writing = Writing(names[place], many[place], hashes[place], left, replace, chunk)
            taken += [] if self._stored(writing, "put_many") else [place]
        if taken:
            raise self._exists(keys[min(taken)])
        here = self._names.here
        return [key if key.where == here else self._names.at(key) for key in keys]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        names, hashes = self._names.names(keys), [id_hash(key.id) for key in keys]
        found: list[Frames | None] = [None] * len(keys)
        for name, places in self._fleet.groups(names):
            if len(places) == len(names):
                found = self._got(name, names, hashes)
                break
            got = self._got(name, [names[place] for place in places], [hashes[place] for place in places])
            for place, frames in zip(places, got, strict=True):
                found[place] = frames
        self._missing(*[key for key, one in zip(keys, found, strict=True) if one is None])
        return found

    def _got(self, name: bytes, names: list[bytes], hashes: list[int]) -> list[Frames | None]:
        found = self._steadily(name, lambda link: batches.get_many(link, names, hashes), "get_many")
        return [
            self._one(names[place], hashes[place], "get_many") if isinstance(one, Exception) else one
            for place, one in enumerate(found)
        ]

    def _one(self, name: bytes, hashed: int, what: str) -> Frames | None:
        last = partial(bulk.get, name=name, id_hash=hashed, first=LARGEST)
        return self._steadily(name, lambda link: bulk.get(link, name, hashed), what, at_last=last)

    def _stored(self, writing: Writing, what: str) -> bool:
        head = bulk.new_header(writing)
        work = partial(bulk.put, writing=writing, header=head)
        return self._steadily(writing.name, partial(self._knowing, work), what)

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return rounds.there(self._fleet, self._names.names(keys), "exists_many")

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        names = self._names.names(keys)
        commands = lambda name: (rounds.begin(name), pack(b"UNLINK", name))  # noqa: E731
        replies = each(self._fleet, names, commands, "evict", again=False)
        for name, (raw, _) in zip(names, replies, strict=True):
            chunks = bulk.chunks_of(name, raw)
            if chunks:
                each(self._fleet, chunks, lambda chunk: (pack(b"UNLINK", chunk),), "evict")
        return [bool(done) for _, done in replies]

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        check_ttl(ttl)
        return rounds.renew(self._fleet, self._names.names(keys), milliseconds(ttl))

    # -- all of them -------------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        everything = self._maker is not None
        known: dict[str, str] = {}
        pattern = header.space_prefix("*" if everything else self._namespace) + b"o:*"
        for space, id, head, left in rounds.objects(self._fleet, pattern):
            if space not in known:
                known[space] = self._owner(space)
            yield self._stat(Key(id), head, left, space, known[space])

    def clear(self) -> int:
        count = 0
        for names in scan(self._fleet, self._names.prefix + b"*"):
            replies = each(self._fleet, names, lambda name: (pack(b"UNLINK", name),), "clear")
            count += sum(bool(done) for name, (done,) in zip(names, replies, strict=True) if b":o:{" in name)
        return count

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        return reaping.reap(self._fleet, dry_run=dry_run)

    def diagnose(self) -> Iterator[Finding]:
        return health.diagnose(self._place)

    def status(self) -> Status:
        return health.status(self._fleet, self._place.label)

    def close(self) -> None:
        self._fleet.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _writing(self, key: Key, frames: Frames, ttl: float | None, replace: bool) -> Writing:
        chunk = self._place.chunk
        return Writing(self._names.name(key), frames, id_hash(key.id), milliseconds(ttl), replace, chunk)

    def _knowing(self, work: Callable[[Link], T], link: Link) -> T:
        """`work`, when it is known which life of the server it is in: keys tell it, and owners are known in it."""
        self._fleet.know(link)
        self._settle()
        return work(link)

    def _steadily(
        self,
        name: bytes,
        work: Callable[[Link], T],
        what: str,
        *,
        again: bool = True,
        at_last: Callable[[Link], T] | None = None,
    ) -> T:
        """`run`, anew as long as the object changes while it is read or written in pieces; soon by `at_last`, in one.

        Raises:
            ConnectorError: It still did when the time of a call was over.
        """
        ends, torn = time.monotonic() + self._place.timeout, 0
        left: float | None = None
        while left is None or left > 0:
            doing = at_last if at_last and torn >= _PIECES else work
            try:
                return self._fleet.run(name, doing, what, again=again, timeout=left)
            except Torn:
                torn += 1
                time.sleep(min(_PAUSES.pause(torn), max(ends - time.monotonic(), 0.0)))
            left = ends - time.monotonic()
        raise ConnectorError(
            f"{what} at {self._place.label}: the object was changed {torn} times within {self._place.timeout:g} s, "
            "each time before it was there whole; change it less often, or give calls more time with ?timeout=."
        )

    def _read(self, key: Key, read: Callable[[], T]) -> T:
        try:
            return read()
        except IntegrityError as error:
            raise IntegrityError(f"{key.id} at {self.spec} cannot be read: {error}.") from error

    def _stat(self, key: Key, head: header.Header, left: object, space: str, owner: str) -> Stat:
        expires = time.time() + left / 1000 if isinstance(left, int) and left >= 0 else None
        return Stat(Key(key.id, self._names.where(space)), head.length, head.created, expires, space, owner)

    def _owner(self, space: str) -> str:
        owner = owners.read(self._fleet, space) if space.startswith("~") else None
        return str(owner) if owner is not None else ""

    def _settle(self) -> None:
        """Before something is put into an unnamed namespace: say whose it is, and clear up behind the dead.

        Once in each life of the server.
        """
        if self._maker is None or (self._said == self._fleet.epoch and keeper.keeps(self._place, self._namespace)):
            return
        reaping.reap(self._fleet, dry_run=False, only_if_dead=True)
        owners.write(self._fleet, self._namespace, self._maker)
        try:
            keeper.keep(self._place, self._namespace, self._maker)
            self._said = self._fleet.epoch
        except RuntimeError as error:
            raise ConnectorError(
                f"{self.spec} needs a thread that extends its lease, and there is none: {error}."
            ) from error

    def _exists(self, key: Key) -> KeyExists:
        return KeyExists(f"{self.spec} already holds {key.id}; objects are written once (say replace=True).")

    def _missing(self, *keys: Key) -> None:
        """Raise ObjectLost if the server that took one of the objects has lost all it had."""
        taken = [(key, then) for key in keys if (then := self._names.epoch(key))]
        now = self._fleet.look() if taken else ""
        key = next((key for key, then in taken if then != now), None)
        if key is None:
            return
        raise ObjectLost(
            f"{key.id} was put at {self._place.label} before that server lost what it held (it restarted without "
            f"persistence, or was flushed), or it is another server; put the object again."
        )


class SecureRedisConnector(RedisConnector):
    """`rediss://`: the same with TLS."""

    scheme: ClassVar[str] = "rediss"
