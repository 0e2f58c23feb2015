"""A board at a broker: completion is a small value there, with the result's reference, or the result if it is small.

Sites that share nothing but the broker can wait: the value is set once, by compare-and-set, who waits is told by the
broker, and who restarts reads it back. Bulk lies in a store, the setter's own if the future's is out of reach there.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from proxyfab.abc import check_ttl
from proxyfab.errors import CapabilityError, ConfigurationError, Conflict, IntegrityError, KeyExists, ProxyfabError
from proxyfab.events.broker import Broker, State, received
from proxyfab.events.model import Capability, Kept
from proxyfab.keys import Key
from proxyfab.patterns.future.board import Board, Seen
from proxyfab.patterns.future.outcome import Verdict, verdict_of
from proxyfab.ref import Ref, load
from proxyfab.wire.payload import Payload

_SLICE = 20.0
"""Seconds of one wait at the broker."""
_RUNG = 60.0
_KEPT = 100.0
_VERDICTS = list(Verdict)
_FIELDS = 6


class _Beside(enum.StrEnum):
    """Names beside the broker."""

    OUTCOME = "futures/"
    PROMISE = "promises/"


class BrokerBoard(Board):
    """The outcomes at one broker. Thread-safe, fork-safe.

    Args:
        url: Of the store where results lie unless their setter says otherwise.
        broker: A broker, or its URL.
        source: The store, if it is at hand.
    """

    def __init__(self, url: str, broker: Broker | str, source: Any = None) -> None:
        super().__init__(url, source)
        if isinstance(broker, str) and "://" not in broker:
            raise ConfigurationError(f"broker= is a broker or its URL, such as nats://host:4222, not {broker!r}.")
        self._broker = None if isinstance(broker, str) else broker
        self._ours = False
        """Whether it was opened here."""
        self.broker = broker if isinstance(broker, str) else broker.url
        if self._broker is not None and not self._broker.capabilities & Capability.STATE:
            raise CapabilityError(f"{self.broker} keeps no values: futures cannot complete there. Take redis or nats.")

    @property
    def place(self) -> str:
        return f"{self.broker} {self.url}"

    @property
    def outage(self) -> float:
        return 0.0  # brokers have a patience of their own

    @contextmanager
    def _state(self) -> Iterator[State]:
        """The values there. Where who gave us his broker has closed it, it is open for this alone: we may be late."""
        broker = self._broker
        if broker is None or (self._ours and broker.closed):
            broker, self._ours = received(self.broker), True
            self._broker = broker
        if not broker.closed:
            yield broker.state()
            return
        with received(self.broker) as lent:
            yield lent.state()

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def announce(self, key: Key, payload: Payload, ttl: float | None, store: Any = None) -> None:
        check_ttl(ttl)
        ref = (store or self.store).ref_payload(payload, None, once=True, ttl=ttl)
        try:
            value = _pack(ref, verdict_of(payload.type))
            with self._state() as state:
                state.put(_name(_Beside.OUTCOME, key), value, revision=0, ttl=ttl)
        except Conflict:
            ref.evict()
            raise KeyExists(f"The future {key.id} at {self.broker} has an outcome.") from None
        except BaseException:
            if not self._may_stand(key, ref):
                ref.evict()
            raise

    def _may_stand(self, key: Key, ref: Ref[Any]) -> bool:
        """Whether what failed may have come through: then its object is somebody's."""
        try:
            kept = self._outcome(key)
        except ProxyfabError:
            return True
        return kept is not None and _place(_unpack(kept)[1]) == _place(ref)

    def wait_any(self, keys: Sequence[Key], timeout: float | None) -> list[Key]:
        names = {_name(_Beside.OUTCOME, key): key for key in keys}
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if until is None else min(_SLICE, until - time.monotonic())
            with self._state() as state:
                found = state.wait(dict.fromkeys(names, 0), max(left, 0.0))
            if found or (until is not None and time.monotonic() >= until):
                return [names[name] for name, kept in found.items() if kept is not None]

    def wait(self, key: Key, timeout: float | None) -> bool:
        return bool(self.wait_any([key], timeout))

    def _outcome(self, key: Key) -> Kept | None:
        with self._state() as state:
            return state.get(_name(_Beside.OUTCOME, key))

    def look(self, key: Key) -> Seen | None:
        kept = self._outcome(key)
        if kept is None:
            return None
        verdict, ref = _unpack(kept)
        return Seen(verdict, ref.payload() if ref.key is None or verdict is not Verdict.VALUE else None)

    def fetch(self, key: Key) -> Payload | None:
        ref = self.landed(key)
        return None if ref is None else ref.payload()

    def landed(self, key: Key) -> Ref[Any] | None:
        kept = self._outcome(key)
        return None if kept is None else _unpack(kept)[1]

    def evict(self, key: Key) -> bool:
        ref = self.landed(key)
        if ref is not None:
            ref.evict()
        with self._state() as state:
            return state.delete(_name(_Beside.OUTCOME, key))

    # -- signs of life, and the bell ---------------------------------------------------------------------------------

    def beat(self, key: Key, said: bytes, lease: float) -> None:
        with self._state() as state:
            state.put(_name(_Beside.PROMISE, key), said, ttl=_KEPT * lease)

    def listen(self, key: Key) -> bytes | None:
        with self._state() as state:
            kept = state.get(_name(_Beside.PROMISE, key))
        return None if kept is None else kept.value

    def hush(self, key: Key) -> None:
        with self._state() as state:
            state.delete(_name(_Beside.PROMISE, key))

    def bell(self, near: Key) -> Key:  # noqa: ARG002 - there is one place for all
        return Key.draw()

    def ring(self, bell: Key) -> None:
        with self._state() as state:
            state.put(_name(_Beside.OUTCOME, bell), b"", ttl=_RUNG)

    def silence(self, bell: Key) -> None:
        try:
            with self._state() as state:
                state.delete(_name(_Beside.OUTCOME, bell))
        except ProxyfabError:  # it goes by itself
            pass

    def check(self) -> None:
        with self._state() as state:
            state.get("futures/none")


def _name(kind: _Beside, key: Key) -> str:
    """What a future is called there: its id, where all of that may stand in a name, else a digest."""
    id = key.id
    if not (id.isascii() and id.replace("-", "").replace("_", "").isalnum() and len(id) <= 100):
        from hashlib import blake2b

        id = f"={blake2b(id.encode(), digest_size=16).hexdigest()}"
    return f"{kind}{id}"


def _pack(ref: Ref[Any], verdict: Verdict) -> bytes:
    from msgpack import packb

    url, *place, nbytes, _kind, _mask, _flags = ref.__reduce__()[1]
    id, where, inside = (place[0], place[1], None) if len(place) == 2 else ("", "", place[0])
    packed: bytes = packb([_VERDICTS.index(verdict), url, id, where, inside, nbytes])
    return packed


def _unpack(kept: Kept) -> tuple[Verdict, Ref[Any]]:
    from msgpack import unpackb

    try:
        number, url, id, where, inside, nbytes = unpackb(kept.value)
        place = (id, where) if inside is None else (tuple(inside) if isinstance(inside, list) else inside,)
        return _VERDICTS[number], load(url, *place, nbytes, "", 0, 0)
    except ProxyfabError:
        raise
    except Exception as error:  # whatever stands there
        raise IntegrityError("A future's outcome at a broker is damaged: it is not what proxyfab writes.") from error


def _place(ref: Ref[Any]) -> tuple[str, Key | None]:
    return ref.url, ref.key


def board_of(url: str, broker: str = "") -> Board:
    """The board of a future that came from elsewhere; opens nothing."""
    return BrokerBoard(url, broker) if broker else Board(url)
