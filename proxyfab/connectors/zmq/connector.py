"""`zmq://`: objects on node servers (`proxyfab serve`), for any process that reaches them.

On the server's own machine objects are read, and large ones written, in shared memory; elsewhere their bytes come in
chunks into the memory where they stay. A key says which server took the object, so any connector resolves any key.

Promises: a put that returned is whole, and everybody's; an object of a server that was started anew is ObjectLost, at
once; a call ends within its deadline. Leaves to `link` and `channel` how that is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from proxyfab.abc import (
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
from proxyfab.buffers import Frames, MappedFrames
from proxyfab.connectors.zmq import health
from proxyfab.connectors.zmq.batches import Asked, Wanted, cut, pipelined, swap_message
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.filling import SHARED, Filling
from proxyfab.connectors.zmq.link import Link
from proxyfab.connectors.zmq.servers import TIMEOUT, Reach, Servers, Spot
from proxyfab.connectors.zmq.spaces import draw, leave_at_exit
from proxyfab.connectors.zmq.waiting import first
from proxyfab.errors import ConfigurationError, KeyExists
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.osio.namespace import is_name
from proxyfab.spec import ConnectorSpec, check_name
from proxyfab.wire.flow import PIPELINED, WINDOW
from proxyfab.wire.messages import CHUNK, Message
from proxyfab.zeromq.guard import CLIENT

_VIEWS = 1000


class ZMQConnector(BaseConnector):
    """Objects on a node server. Thread-safe and fork-safe.

    Args:
        address: `host:port`, or `auto` for a private server of this machine that starts with its first user.
        name: A name makes the namespace persistent, as long as the server runs; without one it lives with this process.
        timeout: Seconds a call may take.
        shared: Whether to use shared memory where the server is of this machine.
        key: The server's public CURVE key; by default what the keyring knows of its address.
        identity: Id of this client's own CURVE key in the keyring.
        side: Which side channels to use: `1` for any that the server offers, `tcp`, or `0` for none.
    """

    scheme: ClassVar[str] = "zmq"
    checksums: ClassVar[bool] = True
    wait_bound = 0.0

    def __init__(
        self,
        address: str,
        name: str | None = None,
        *,
        timeout: float = TIMEOUT,
        shared: bool = True,
        key: str = "",
        identity: str = CLIENT,
        side: str = "1",
    ) -> None:
        self.reach = Reach(address, timeout, shared, key, identity, side)
        self.reach.check()
        self.timeout = self.wait_outage = timeout
        self._extra: dict[str, Any] = {}
        """What is said to the server with each question besides."""
        self._all = name is None
        self.namespace = draw() if name is None else name
        self.servers = Servers(self.reach)
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child says for itself what lives with it."""
        self._leaves = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> ZMQConnector:
        spec = ConnectorSpec.parse(url)
        reach = Reach.parse(spec)
        if name is not None:
            check_name(name)
        namespace = name or dict(spec.options).get("ns")
        if namespace is not None and not is_name(namespace):
            raise ConfigurationError(f"{namespace!r} cannot name a store; use letters, digits, '.', '_' and '-'.")
        address, timeout, shared, key, identity, side = reach
        return cls(address, namespace, timeout=timeout, shared=shared, key=key, identity=identity, side=side)

    @property
    def spec(self) -> str:
        return self.reach.url(self.namespace)

    @property
    def place(self) -> str:
        return f"zmq://{self.reach.address}"

    def reserve(self) -> Key:
        return Key.draw(self._find(None).where())

    def _find(self, key: Key | None, ends: float = math.inf) -> Spot:
        return self.servers.find(key, self.namespace, ends)

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        spot = self._find(key)
        self._stay(spot)
        id = Key.draw().id if key is None else key.id
        fields = {"ns": spot.namespace, "ttl": ttl, "replace": replace}
        if frames.nbytes < SHARED or not self._put_shared(spot, {**fields, "id": id}, frames):
            if frames.nbytes <= CHUNK:
                self._put_small(spot, fields, [id], [frames])
            else:
                self._put_large(spot, {**fields, "id": id}, frames)
        return Key(id, spot.where())

    def _put_small(self, spot: Spot, fields: dict[str, Any], ids: list[str], many: Sequence[Frames]) -> None:
        sizes = [frames.nbytes for frames in many]
        body = [view for frames in many for view in frames.views]
        if len(body) > _VIEWS:
            body = [Frames(body).join()]  # a copy of at most a chunk, instead of as many frames

        def once(channel: Channel, request: bytes) -> Message:
            channel.send("put", request, {**fields, "ids": ids, "sizes": sizes}, body)
            return channel.answer(request, time.monotonic() + self.timeout)

        taken = spot.link.call("put", once, incarnation=spot.incarnation).items("exists")
        if taken:
            raise KeyExists(f"{taken[0][1]} (Node server at {spot.link.endpoint}.)")

    def _put_large(self, spot: Spot, fields: dict[str, Any], frames: Frames) -> None:
        def once(channel: Channel, request: bytes) -> Message:
            return channel.upload(request, fields, frames.views, self.timeout)

        spot.link.call("put", once, incarnation=spot.incarnation)

    def _put_shared(self, spot: Spot, fields: dict[str, Any], frames: Frames) -> bool:
        """Write to shared memory that the server granted; False where there is none, or no room."""
        if not spot.link.known().space:
            return False
        filling = Filling(spot.link, {**fields, "size": frames.nbytes}, frames, self.timeout)
        return spot.link.call("put", filling.once, incarnation=spot.incarnation)

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
        done: list[Key | None] = [None] * len(many)
        named = list(keys) if keys is not None else [Key.draw() for _ in many]
        wanted = [Wanted(number, key.id, self._find(key), many[number].nbytes) for number, key in enumerate(named)]
        for batch in cut([item for item in wanted if item.nbytes <= SHARED // 4]):
            spot = batch[0].spot
            self._stay(spot)
            fields = {"ns": spot.namespace, "ttl": ttl, "replace": replace}
            self._put_small(spot, fields, [item.id for item in batch], [many[item.number] for item in batch])
            where = spot.where()
            for item in batch:
                done[item.number] = Key(item.id, where)
        return [
            key if key is not None else self.put(many[number], key=named[number], ttl=ttl, replace=replace)
            for number, key in enumerate(done)
        ]

    def _stay(self, spot: Spot) -> None:
        """See to it that what this process keeps in an unnamed namespace stays until it ends, and goes then."""
        if not self._leaves and self._all and spot.namespace == self.namespace:
            self._leaves = True
            leave_at_exit(self.spec, self.namespace)
            spot.link.stay()

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Frames | None:
        return self._get([key])[0]

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        return self._get([key], {"offset": offset, "length": min(length, 1 << 62)})[0]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self._get(keys)

    def _get(self, keys: Sequence[Key], part: dict[str, int] | None = None) -> list[Frames | None]:
        found: list[Frames | None] = [None] * len(keys)
        rest = [Wanted(number, key.id, self._find(key)) for number, key in enumerate(keys)]
        share = part is None
        while rest:
            batch, rest = _next(rest)
            sizes, buffers, shared = self._fetch(batch, part or {}, share=share)
            again = []
            for item, size in zip(batch, sizes, strict=False):
                if size >= 0:
                    view = buffers.pop(0)
                    found[item.number] = Frames.known((view.toreadonly(),), size)
                elif size == -2:
                    frames = self._look(item.spot.link, shared[item.number])
                    found[item.number] = frames
                    again += [item] if frames is None else []
            if again:  # it went from shared memory before we looked: to a disk, or for good
                share = False
            rest = again + batch[len(sizes) :] + rest
        return found

    def _look(self, link: Link, id: str) -> Frames | None:
        space = link.known().space
        frames: Frames | None = link.place(space).get(Key(id, space))
        return None if frames is None else MappedFrames.known(frames.views, frames.nbytes)

    def _fetch(
        self, batch: list[Wanted], part: dict[str, int], *, share: bool
    ) -> tuple[list[int], list[memoryview], dict[int, str]]:
        """Sizes (-1: missing, -2: in shared memory), the objects that came, and where the others lie."""
        link = batch[0].spot.link
        shared = share and bool(link.known().space)
        fields = {**_names(batch), "window": WINDOW, "shared": shared, **part, **self._extra}

        def once(channel: Channel, request: bytes) -> tuple[Message, list[memoryview]]:
            channel.send("get", request, fields)
            message = channel.answer(request, time.monotonic() + self.timeout)
            sizes = [size for size in message.items("sizes") if size >= 0]
            return message, channel.receive(message, sizes, self.timeout)

        message, buffers = link.call("get", once, incarnation=batch[0].spot.incarnation)
        places = {batch[number].number: id for number, id in message.items("shared")}
        return message.items("sizes", len(batch)), buffers, places

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, verb: str, keys: Sequence[Key], answer: str, fields: dict[str, Any] | None = None) -> list[Any]:
        """One thing about each key, in as many requests as there are servers and full messages."""
        result: list[Any] = [None] * len(keys)
        wanted = [Wanted(number, key.id, self._find(key)) for number, key in enumerate(keys)]
        for batch in cut(wanted):
            asked = {**_names(batch), **(fields or {}), **self._extra}

            def once(channel: Channel, request: bytes, asked: dict[str, Any] = asked) -> Message:
                channel.send(verb, request, asked)
                return channel.answer(request, time.monotonic() + self.timeout)

            message = batch[0].spot.link.call(verb, once, incarnation=batch[0].spot.incarnation)
            for item, value in zip(batch, message.items(answer), strict=True):
                result[item.number] = value
        return result

    def exists(self, key: Key) -> bool:
        return bool(self._ask("exists", [key], "found")[0])

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return list(map(bool, self._ask("exists", keys, "found")))

    def evict(self, key: Key) -> bool:
        return bool(self._ask("evict", [key], "found")[0])

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return list(map(bool, self._ask("evict", keys, "found")))

    def renew(self, key: Key, ttl: float | None) -> bool:
        return self.renew_many([key], ttl)[0]

    def renew_many(self, keys: Sequence[Key], ttl: float | None) -> list[bool]:
        check_ttl(ttl)
        return list(map(bool, self._ask("renew", keys, "found", {"ttl": ttl})))

    def stat(self, key: Key) -> Stat | None:
        row = self._ask("stat", [key], "rows")[0]
        return None if row is None else self._stat(self._find(key), row)

    def _stat(self, spot: Spot, row: list[Any]) -> Stat:
        namespace, id, nbytes, created, expires, owner = row
        where = spot._replace(incarnation="", namespace=namespace).where()
        return Stat(Key(id, where), nbytes, created, expires, namespace, owner)

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        check_timeout(timeout)
        ends = time.monotonic() + timeout if timeout is not None and timeout > 0 else math.inf
        wanted = [Wanted(number, key.id, self._find(key, ends)) for number, key in enumerate(keys)]
        if not wanted:
            return []
        return [keys[number] for number in sorted(first(wanted, timeout, ends, self.timeout))]

    # -- the whole ---------------------------------------------------------------------------------------------------

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        return self.compare_and_set_many([Swap(key, old, new, ttl)])[0]

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        done = [False] * len(swaps)
        asked: dict[tuple[int, str], list[tuple[int, Spot, Asked]]] = {}
        for number, swap in enumerate(swaps):
            check_ttl(swap.ttl)
            check_swap(swap.old, swap.new)
            spot = self._find(swap.key)
            self._stay(spot)
            asked.setdefault((id(spot.link), spot.incarnation), []).append((number, spot, swap_message(swap, spot)))
        for group in asked.values():
            for start in range(0, len(group), PIPELINED):
                some = group[start : start + PIPELINED]
                spot, once = some[0][1], partial(pipelined, asked=[item[2] for item in some], timeout=self.timeout)
                answers = spot.link.call("compare_and_set", once, incarnation=spot.incarnation)
                for (number, _, _), answer in zip(some, answers, strict=True):
                    done[number] = answer.flag("done")
        return done

    def scan(self) -> Iterator[Stat]:
        from msgpack import unpackb

        spot = self._find(None)
        link = spot.link

        def once(channel: Channel, request: bytes) -> memoryview:
            channel.send("scan", request, {} if self._all else {"ns": self.namespace})
            message = channel.answer(request, time.monotonic() + self.timeout)
            return channel.receive(message, [message.count("size")], self.timeout)[0]

        for row in unpackb(link.call("scan", once)):
            yield self._stat(spot, row)

    def clear(self) -> int:
        return self.servers.own().ask("clear", {"ns": self.namespace}).count("count")

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        rows = self.servers.own().ask("reap", {"dry": dry_run}).items("rows")
        return [Reclaimed(what, nbytes, reason) for what, nbytes, reason in rows]

    def diagnose(self) -> Iterator[Finding]:
        return health.diagnose(self.servers.fresh(health.STEP), self.status)

    def status(self) -> Status:
        message = self.servers.own().ask("status", {})
        fields = message.fields
        return Status(
            self.place,
            message.count("objects"),
            message.count("nbytes"),
            fields.get("limit"),
            dict(fields["counters"]),
            tuple(message.items("peers")),
            message.seconds("started"),
            dict(fields.get("gauges", {})),
        )

    def leave(self, namespaces: list[str], timeout: float) -> None:
        """Tell the server that the process of some unnamed namespaces ends."""

        def once(channel: Channel, request: bytes) -> None:
            channel.send("leave", request, {"spaces": namespaces})
            channel.answer(request, time.monotonic() + timeout)

        self.servers.own().call("leave", once, timeout=timeout)

    def close(self) -> None:
        self.servers.close()


def _names(batch: list[Wanted]) -> dict[str, Any]:
    """The objects of a batch, as a message says them."""
    return {"ns": batch[0].spot.namespace, "ids": [item.id for item in batch]}


def _next(rest: list[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
    """The first batch of what is wanted, and what remains."""
    if len(rest) == 1:
        return rest, []
    batch = next(iter(cut(rest)))
    taken = {item.number for item in batch}
    return batch, [item for item in rest if item.number not in taken]
