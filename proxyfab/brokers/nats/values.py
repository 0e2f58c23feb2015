"""Values beside a topic: a key-value bucket of JetStream, as its other tools see it, with compare-and-set.

Rules:
1. A revision is the sequence number of the message that holds the value. Setting one says which number is expected;
   what was deleted, or has outlived its time, counts as not there whatever number it has.
2. How long a value lasts is written beside it and counted from when the server took it, by the server's clock. The
   server itself takes it away some seconds later, if nobody sets it again.
3. Who waits listens to what is set, looks when he hears something, and every few seconds all the same.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from proxyfab.brokers.nats import topics
from proxyfab.brokers.nats.arrivals import Message
from proxyfab.brokers.nats.link import STATUS, Refusal, now, once_more, status_of
from proxyfab.brokers.nats.naming import key_of, value_of
from proxyfab.brokers.nats.session import Lost
from proxyfab.brokers.nats.topics import Desk
from proxyfab.errors import CapacityError, Conflict, ConnectorError
from proxyfab.events.broker import TIMEOUT, State
from proxyfab.events.model import Kept, check_name
from proxyfab.grace import LEAST

MAX_VALUE = 512 << 10
_TTL = "Pf-Ttl"
_MARK = "Pf-Mark"
_GONE = {"KV-Operation": "DEL", "Nats-TTL": "120s"}
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG = 10071
_LOOK = 3.0
_LATE = 5.0
"""Seconds for a look, the last one too, which is begun when the time is over."""
_HINTED = (0.0, 0.002, 0.01, 0.05)
"""Seconds after a hint at which to look: it may come before the value has been stored."""
_CLOCK = 300.0
_AT_ONCE = 128


class _Found(NamedTuple):
    kept: Kept | None
    sequence: int
    """Of whatever lies under this name; 0 for nothing."""
    ends: float
    """By this process's monotonic clock; infinity for never."""
    mark: str = ""


class Values(State):
    """The values beside one topic, or beside the broker.

    Args:
        desk: Where to.
        topic: Its name; "" for the broker's.
        timeout: Seconds of a call.
    """

    def __init__(self, desk: Desk, topic: str, timeout: float = TIMEOUT) -> None:
        self._desk = desk
        self._timeout = timeout
        self._topic = topic
        self._bucket = desk.names.bucket(topic)
        self._clock = 0.0, -math.inf

    # -- blocking ----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Kept | None:
        check_name(name)

        async def work(deadline: float) -> Kept | None:
            return (await self._find(name, deadline)).kept

        return self._desk.link.run(work, self._timeout)

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        check_name(name)
        if len(value) > MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {MAX_VALUE}.")
        headers = {} if ttl is None else {_TTL: f"{ttl:.6f}", "Nats-TTL": f"{math.ceil(ttl) + 2}s"}

        async def work(deadline: float) -> int:
            return await self._set(name, bytes(value), headers, revision, deadline)

        return self._desk.link.run(work, self._timeout)

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        check_name(name)

        async def work(deadline: float) -> bool:
            times = 0
            while True:
                times += 1
                found = await self._find(name, deadline)
                _expect(name, found, revision)
                if found.kept is None:
                    return False
                if await self._try(name, b"", {**_GONE, _EXPECTED: str(found.sequence)}, deadline):
                    return True
                await once_more(f"The value {name}", times, deadline)

        return self._desk.link.run(work, self._timeout)

    def items(self, prefix: str = "") -> dict[str, Kept]:
        async def work(deadline: float) -> dict[str, Kept]:
            return await self._all(prefix, deadline)

        return self._desk.link.run(work, self._timeout)

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        for name in known:
            check_name(name)

        async def work(deadline: float) -> dict[str, Kept | None]:
            limit = asyncio.timeout_at(deadline + LEAST if timeout > 0 else None)  # a mere look is answered
            try:
                async with limit:
                    return await self._watch(known, deadline)
            except TimeoutError:
                if not limit.expired():
                    raise
                if self._desk.link.trouble is not None:
                    raise self._desk.link.trouble from None
                return {}

        return self._desk.link.run(work, timeout)

    # -- in the loop -------------------------------------------------------------------------------------------------

    def _subject(self, name: str) -> str:
        return f"$KV.{self._bucket}.{key_of(name)}"

    async def _find(self, name: str, deadline: float) -> _Found:
        link = self._desk.link
        subject = f"{link.api}.DIRECT.GET.KV_{self._bucket}.{self._subject(name)}"
        while True:
            message = await link.ask(subject, b"", deadline)
            status = status_of(message)
            if status == STATUS:
                await self._ensure(deadline)
                continue
            headers = message.headers
            sequence = int(headers.get("Nats-Sequence", 0))
            if not sequence or "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
                return _Found(None, sequence, math.inf)
            ends = math.inf
            if _TTL in headers:
                taken = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
                ends = taken + float(headers[_TTL]) - await self._offset(deadline)
            kept = Kept(bytes(message.data), sequence) if ends > time.monotonic() else None
            return _Found(kept, sequence, ends, headers.get(_MARK, ""))

    async def _offset(self, deadline: float) -> float:
        """What to add to this process's monotonic clock to have the server's."""
        offset, asked = self._clock
        before = time.monotonic()
        if before - asked > _CLOCK:
            info = await self._asked("read values", deadline)
            after = time.monotonic()
            offset = datetime.fromisoformat(info["ts"]).timestamp() - (before + after) / 2
            self._clock = offset, after
        return offset

    async def _set(
        self, name: str, value: bytes, headers: dict[str, str], revision: int | None, deadline: float
    ) -> int:
        if revision is None:
            return await self._say(name, value, headers, deadline)
        mark = {**headers, _MARK: os.urandom(8).hex()}  # an answer that was lost makes us ask twice: was it ours?
        found = _Found(None, 0, math.inf) if not revision else await self._find(name, deadline)
        times = 0
        while True:
            times += 1
            _expect(name, found, revision)
            taken = await self._try(name, value, {**mark, _EXPECTED: str(found.sequence)}, deadline)
            if taken:
                return taken
            await once_more(f"The value {name}", times, deadline)
            found = await self._find(name, deadline)
            if found.mark == mark[_MARK]:
                return found.sequence

    async def _try(self, name: str, value: bytes, headers: dict[str, str], deadline: float) -> int:
        """The new revision; 0 where another one was expected."""
        try:
            return await self._say(name, value, headers, deadline)
        except _Wrong:
            return 0

    async def _say(self, name: str, value: bytes, headers: dict[str, str], deadline: float) -> int:
        while True:
            message = await self._desk.link.ask(self._subject(name), value, deadline, headers=headers)
            if status_of(message) == STATUS:
                await self._ensure(deadline)
                continue
            answer = msgspec.json.decode(message.data)
            error = answer.get("error")
            if error is None:
                return int(answer["seq"])
            if error.get("err_code") == _WRONG:
                raise _Wrong
            raise ConnectorError(f"The value {name} is not taken: {error.get('description')}.")

    async def _ensure(self, deadline: float) -> None:
        """There is no such bucket: make the broker's; a topic's is missing with its topic."""
        if self._topic:
            await topics.look(self._desk, self._topic, deadline)
        await topics.ensure_bucket(self._desk, self._topic, deadline)

    async def _all(self, prefix: str, deadline: float) -> dict[str, Kept]:
        start = f"$KV.{self._bucket}."
        info = await self._asked("list values", deadline)
        every = sorted(value_of(subject[len(start) :]) for subject in info["state"].get("subjects") or {})
        names = [name for name in every if name.startswith(prefix) and not name.startswith("~")]
        found: dict[str, Kept] = {}
        for low in range(0, len(names), _AT_ONCE):
            some = names[low : low + _AT_ONCE]
            for name, each in zip(some, await asyncio.gather(*(self._find(n, deadline) for n in some)), strict=True):
                if each.kept is not None:
                    found[name] = each.kept
        return found

    async def _asked(self, what: str, deadline: float) -> dict[str, Any]:
        """What it is, made if need be; raises TopicNotFound where it is missing with its topic."""
        while True:
            try:
                return await self._described(deadline)
            except Refusal as refusal:
                if refusal.number != topics.NO_STREAM:
                    raise topics.unwilling(self._desk, what, refusal) from refusal
                await self._ensure(deadline)

    async def _described(self, deadline: float) -> dict[str, Any]:
        body = {"subjects_filter": f"$KV.{self._bucket}.>"}
        return await self._desk.link.call(f"STREAM.INFO.KV_{self._bucket}", body, deadline)

    async def _watch(self, known: Mapping[str, int], deadline: float) -> dict[str, Kept | None]:
        heard = asyncio.Event()

        def hear(message: Message) -> None:  # noqa: ARG001 - what was set is looked up
            heard.set()

        hints: tuple[float, ...] = ()
        session, listening = None, list[Any]()
        try:
            while True:
                late = max(deadline, now() + min(_LATE, self._timeout))
                if session is None or not session.alive:
                    try:
                        session = await self._desk.link.session(late)
                        listening = [await session.listen(self._subject(name), hear) for name in known]
                    except Lost:
                        continue
                found, ends = await self._changed(known, late)
                left = deadline - now()
                if found or left <= 0:
                    return found
                pause = min(left, hints[0] if hints else _LOOK, max(0.0, ends - time.monotonic()))
                hints = hints[1:]
                if await _rings(heard, pause):
                    heard.clear()
                    hints = _HINTED
        finally:
            if session is not None:
                await session.deafen(listening)

    async def _changed(self, known: Mapping[str, int], deadline: float) -> tuple[dict[str, Kept | None], float]:
        """Those that are not as is known, and when the first of the others ends."""
        each = await asyncio.gather(*(self._find(name, deadline) for name in known))
        found = {
            name: now_there.kept
            for (name, revision), now_there in zip(known.items(), each, strict=True)
            if _revision(now_there.kept) != revision
        }
        return found, min((one.ends for one in each if one.kept is not None), default=math.inf)


class _Wrong(Exception):
    """Another sequence number was expected."""


def _revision(kept: Kept | None) -> int:
    return 0 if kept is None else kept.revision


def _expect(name: str, found: _Found, revision: int | None) -> None:
    if revision is not None and _revision(found.kept) != revision:
        raise Conflict(f"{name} has revision {_revision(found.kept)}, not {revision}: somebody else has set it.")


async def _rings(heard: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(heard.wait(), seconds)
    except TimeoutError:
        return False
    return True
