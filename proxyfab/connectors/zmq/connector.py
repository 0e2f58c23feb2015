"""`zmq://`: objects on node servers (`proxyfab serve`), for any process that reaches them.

On the server's own machine objects are read, and large ones written, in shared memory; elsewhere their bytes come in
chunks into the memory where they stay. A key says which server took the object, so any connector resolves any key.

Promises: a put that returned is whole, and everybody's; an object of a server that was started anew is ObjectLost, at
once; a call ends within its deadline. Leaves to `link` and `channel` how that is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from proxyfab.abc import BaseConnector, Finding, Reclaimed, Stat, Status, check_batch, check_range, check_ttl
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq import health
from proxyfab.connectors.zmq.batches import Wanted, cut
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.link import Link
from proxyfab.connectors.zmq.locator import Locator, endpoint
from proxyfab.connectors.zmq.spaces import draw, leave_at_exit
from proxyfab.errors import ConfigurationError, ConnectorError, KeyExists
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.osio.namespace import is_name
from proxyfab.spec import ConnectorSpec, check_name
from proxyfab.wire.flow import WINDOW
from proxyfab.wire.messages import CHUNK, Message

_SHARED = 256 << 10
"""Bytes from which on two round trips and a copy in shared memory are cheaper than a copy through sockets."""
_TIMEOUT = 60.0
_SWAPPED = 1 << 20
_SCANNED = 4096


class ZMQConnector(BaseConnector):
    """Objects on a node server. Thread-safe and fork-safe.

    Args:
        address: `host:port`, or `auto` for a private server of this machine that starts with its first user.
        name: A name makes the namespace persistent, as long as the server runs; without one it lives with this process.
        timeout: Seconds a call may take.
        shared: Whether to use shared memory where the server is of this machine.
        key: The server's public CURVE key; by default what the keyring knows of its address.
    """

    scheme: ClassVar[str] = "zmq"
    checksums: ClassVar[bool] = True
    wait_bound = 0.0

    def __init__(
        self, address: str, name: str | None = None, *, timeout: float = _TIMEOUT, shared: bool = True, key: str = ""
    ) -> None:
        endpoint(address)
        if not timeout > 0:
            raise ConfigurationError(f"A timeout is a positive number of seconds, not {timeout!r}.")
        self.address = address
        self.timeout = timeout
        self.shared = shared
        self.key = key
        self._all = name is None
        self.namespace = draw() if name is None else name
        self._closed = False
        self._links: dict[str, Link] = {}
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child says for itself what lives with it."""
        self._leaves = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> ZMQConnector:
        spec = ConnectorSpec.parse(url)
        options = spec.take("ns", "timeout", "shared", "key")
        if spec.path.strip("/") and spec.host:
            raise ConfigurationError(f"{url} has a path; a node server is named as in zmq://host:port?ns=name.")
        if name is not None:
            check_name(name)
        namespace = name or options.get("ns")
        if namespace is not None and not is_name(namespace):
            raise ConfigurationError(f"{namespace!r} cannot name a store; use letters, digits, '.', '_' and '-'.")
        return cls(
            spec.host or spec.path,
            namespace,
            timeout=_seconds(options.get("timeout", str(_TIMEOUT))),
            shared=_switch(options.get("shared", "1")),
            key=options.get("key", ""),
        )

    @property
    def spec(self) -> str:
        options = [("ns", self.namespace)]
        if self.timeout != _TIMEOUT:
            options.append(("timeout", f"{self.timeout:g}"))
        if not self.shared:
            options.append(("shared", "0"))
        if self.key:
            options.append(("key", self.key))
        host, path = ("", self.address) if self.address.startswith("/") else (self.address, "")
        return str(ConnectorSpec("zmq", host, path, tuple(options)))

    @property
    def place(self) -> str:
        return f"zmq://{self.address}"

    # -- where -------------------------------------------------------------------------------------------------------

    def _link(self, address: str = "") -> Link:
        """The link to a server; by default to this connector's own."""
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        address = address or self.address
        link = self._links.get(address)
        if link is None:
            link = self._links.setdefault(address, Link(address, self.timeout, shared=self.shared))
        return link

    def _find(self, key: Key) -> tuple[Link, str, str]:
        """The link to the server of a key, the incarnation that has to answer, and the namespace."""
        own = self._link()
        if not key.where:
            return own, "", self.namespace
        locator = Locator.of(key)
        welcome = own.welcome
        if locator.address != self.address and (welcome is None or welcome.incarnation != locator.incarnation):
            welcome = own.known() if welcome is None else welcome
            if welcome.incarnation != locator.incarnation and welcome.address != locator.address:
                own = self._link(locator.address)
        return own, locator.incarnation, locator.namespace

    @staticmethod
    def _where(link: Link, namespace: str) -> str:
        welcome = link.known()
        return str(Locator(namespace, welcome.incarnation, welcome.address))

    def reserve(self) -> Key:
        return Key.draw(self._where(self._link(), self.namespace))

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        link, incarnation, namespace = self._find(key) if key is not None else (self._link(), "", self.namespace)
        self._stay(namespace)
        id = Key.draw().id if key is None else key.id
        fields = {"ns": namespace, "ttl": ttl, "replace": replace}
        size = frames.nbytes
        granted = {**fields, "id": id, "size": size}
        if size >= _SHARED and link.known().space and self._put_shared(link, incarnation, granted, frames):
            return Key(id, self._where(link, namespace))
        if size <= CHUNK:
            self._put_small(link, incarnation, fields, [id], [frames])
        else:

            def once(channel: Channel, request: bytes) -> Message:
                return channel.upload(request, {**fields, "id": id}, frames.views, self.timeout)

            link.call("put", once, incarnation=incarnation)
        return Key(id, self._where(link, namespace))

    def _put_small(
        self, link: Link, incarnation: str, fields: dict[str, Any], ids: list[str], many: Sequence[Frames]
    ) -> None:
        sizes = [frames.nbytes for frames in many]
        body = [view for frames in many for view in frames.views]
        if len(body) > 1024:
            body = [Frames(body).join()]  # a copy of at most a chunk, instead of as many frames

        def once(channel: Channel, request: bytes) -> Message:
            channel.send("put", request, {**fields, "ids": ids, "sizes": sizes}, body)
            return channel.answer(request, time.monotonic() + self.timeout)

        taken = link.call("put", once, incarnation=incarnation).items("exists")
        if taken:
            raise KeyExists(f"{taken[0][1]} (Node server at {link.endpoint}.)")

    def _put_shared(self, link: Link, incarnation: str, fields: dict[str, Any], frames: Frames) -> bool:
        """Write to shared memory that the server granted; False when it grants none."""
        space = link.known().space

        def once(channel: Channel, request: bytes) -> bool:
            channel.send("grant", request, fields)
            place = channel.answer(request, time.monotonic() + self.timeout).fields.get("place")
            if place is None:
                return False
            link.place(space).put(frames, key=Key(place, space))
            second = bytes(reversed(request))
            channel.send("commit", second, {"grant": request})
            channel.answer(second, time.monotonic() + self.timeout)
            return True

        return link.call("put", once, incarnation=incarnation)

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
        wanted = [Wanted(number, key.id, *self._find(key), many[number].nbytes) for number, key in enumerate(named)]
        for batch in cut([item for item in wanted if item.nbytes <= _SHARED // 4]):
            link, namespace = batch[0].link, batch[0].namespace
            self._stay(namespace)
            fields = {"ns": namespace, "ttl": ttl, "replace": replace}
            ids = [item.id for item in batch]
            self._put_small(link, batch[0].incarnation, fields, ids, [many[item.number] for item in batch])
            where = self._where(link, namespace)
            for item in batch:
                done[item.number] = Key(item.id, where)
        return [
            key if key is not None else self.put(many[number], key=named[number], ttl=ttl, replace=replace)
            for number, key in enumerate(done)
        ]

    def _stay(self, namespace: str) -> None:
        """See to it that what this process keeps in an unnamed namespace goes when it ends."""
        if not self._leaves and namespace == self.namespace and self._all:
            self._leaves = True
            leave_at_exit(self.spec, namespace)

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
        rest = [Wanted(number, key.id, *self._find(key)) for number, key in enumerate(keys)]
        share = part is None
        while rest:
            batch, rest = _first(rest)
            sizes, buffers, shared = self._fetch(batch, part or {}, share=share)
            again = []
            for item, size in zip(batch, sizes, strict=False):
                if size >= 0:
                    view = buffers.pop(0)
                    found[item.number] = Frames.known((view.toreadonly(),), size)
                elif size == -2:
                    frames = self._look(item.link, shared[item.number])
                    found[item.number] = frames
                    again += [item] if frames is None else []
            if again:  # it went from shared memory before we looked: to a disk, or for good
                share = False
            rest = again + batch[len(sizes) :] + rest
        return found

    def _look(self, link: Link, id: str) -> Frames | None:
        space = link.known().space
        return link.place(space).get(Key(id, space))  # type: ignore[no-any-return]  # it is a connector

    def _fetch(
        self, batch: list[Wanted], part: dict[str, int], *, share: bool
    ) -> tuple[list[int], list[memoryview], dict[int, str]]:
        """Sizes (-1: missing, -2: in shared memory), the objects that came, and where the others lie."""
        link = batch[0].link
        names = [[item.namespace, item.id] for item in batch]
        shared = share and bool(link.known().space)
        fields = {"keys": names, "window": WINDOW, "shared": shared, **part}

        def once(channel: Channel, request: bytes) -> tuple[Message, list[memoryview]]:
            channel.send("get", request, fields)
            message = channel.answer(request, time.monotonic() + self.timeout)
            sizes = [size for size in message.items("sizes") if size >= 0]
            return message, channel.receive(message, sizes, self.timeout)

        message, buffers = link.call("get", once, incarnation=batch[0].incarnation)
        places = {batch[number].number: id for number, id in message.items("shared")}
        return message.items("sizes", len(batch)), buffers, places

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, verb: str, keys: Sequence[Key], answer: str, fields: dict[str, Any] | None = None) -> list[Any]:
        """One thing about each key, in as many requests as there are servers and full messages."""
        result: list[Any] = [None] * len(keys)
        wanted = [Wanted(number, key.id, *self._find(key)) for number, key in enumerate(keys)]
        for batch in cut(wanted):
            names = [[item.namespace, item.id] for item in batch]

            def once(channel: Channel, request: bytes, names: list[list[str]] = names) -> Message:
                channel.send(verb, request, {"keys": names, **(fields or {})})
                return channel.answer(request, time.monotonic() + self.timeout)

            message = batch[0].link.call(verb, once, incarnation=batch[0].incarnation)
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
        check_ttl(ttl)
        return bool(self._ask("renew", [key], "found", {"ttl": ttl})[0])

    def stat(self, key: Key) -> Stat | None:
        row = self._ask("stat", [key], "rows")[0]
        return None if row is None else self._stat(self._find(key)[0], row)

    def _stat(self, link: Link, row: list[Any]) -> Stat:
        namespace, id, nbytes, created, expires, owner = row
        return Stat(Key(id, self._where(link, namespace)), nbytes, created, expires, namespace, owner)

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        link, incarnation, namespace = self._find(key)
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0)

        def once(channel: Channel, request: bytes) -> bool:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            channel.send("wait", request, {"keys": [[namespace, key.id]], "timeout": left})
            until = float("inf") if left is None else time.monotonic() + left + self.timeout
            return channel.answer(request, until).flag("found")

        longest = float("inf") if timeout is None else max(timeout, 0) + self.timeout
        return link.call("wait", once, incarnation=incarnation, timeout=longest)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_ttl(ttl)
        sizes = [None if frames is None else frames.nbytes for frames in (old, new)]
        if max(size or 0 for size in sizes) > _SWAPPED:
            raise ConfigurationError(f"compare_and_set takes objects of at most {_SWAPPED} bytes, not more.")
        link, incarnation, namespace = self._find(key)
        self._stay(namespace)
        body = [frames.join() for frames in (old, new) if frames is not None and frames.nbytes]
        fields = {"keys": [[namespace, key.id]], "old": sizes[0], "new": sizes[1], "ttl": ttl}

        def once(channel: Channel, request: bytes) -> bool:
            channel.send("swap", request, fields, body)
            return channel.answer(request, time.monotonic() + self.timeout).flag("done")

        return link.call("compare_and_set", once, incarnation=incarnation)

    def scan(self) -> Iterator[Stat]:
        from msgpack import unpackb

        link = self._link()

        def once(channel: Channel, request: bytes) -> memoryview:
            channel.send("scan", request, {} if self._all else {"ns": self.namespace})
            message = channel.answer(request, time.monotonic() + self.timeout)
            return channel.receive(message, [message.count("size")], self.timeout)[0]

        for row in unpackb(link.call("scan", once)):
            yield self._stat(link, row)

    def clear(self) -> int:
        return self._link().ask("clear", {"ns": self.namespace}).count("count")

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        rows = self._link().ask("reap", {"dry": dry_run}).items("rows")
        return [Reclaimed(what, nbytes, reason) for what, nbytes, reason in rows]

    def diagnose(self) -> Iterator[Finding]:
        return health.diagnose(Link(self.address, min(self.timeout, health.STEP), shared=self.shared), self.status)

    def status(self) -> Status:
        message = self._link().ask("status", {})
        fields = message.fields
        return Status(
            self.place,
            message.count("objects"),
            message.count("nbytes"),
            fields.get("limit"),
            dict(fields["counters"]),
            tuple(message.items("peers")),
            message.seconds("started"),
        )

    def leave(self, namespaces: list[str], timeout: float) -> None:
        """Tell the server that the process of some unnamed namespaces ends."""

        def once(channel: Channel, request: bytes) -> None:
            channel.send("leave", request, {"spaces": namespaces})
            channel.answer(request, time.monotonic() + timeout)

        self._link().call("leave", once, timeout=timeout)

    def close(self) -> None:
        self._closed = True
        for link in list(self._links.values()):
            link.close()


def _first(rest: list[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
    """The first batch of what is wanted, and what remains."""
    batch = next(iter(cut(rest)))
    taken = {item.number for item in batch}
    return batch, [item for item in rest if item.number not in taken]


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"timeout={text!r} is not a number of seconds.") from None


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigurationError(f"shared={text!r} is neither 0 nor 1.")
    return text == "1"
