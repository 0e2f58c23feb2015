"""Board: how an outcome is announced and awaited. Here, in a store: the object that appears under the key is both.

This is the one seam between futures and the way in which completion travels. Whatever else may carry it has these
methods; nothing else of a future knows a connector.

Promises: of all who announce under one key one wins, in any process, and the others are told with KeyExists; a wait
ends at its deadline, and with a ConnectorError where the place cannot be reached, once it has been away too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from proxyfab.abc import SupportsWatch
from proxyfab.buffers import Frames
from proxyfab.errors import CapabilityError, ConfigurationError, KeyNotFound, ProxyfabError
from proxyfab.keys import MAX_ID, Key
from proxyfab.patterns.future.outcome import Verdict, verdict_of
from proxyfab.ref import Ref, mode_of, openers
from proxyfab.spec import StoreSpec
from proxyfab.wire.payload import Payload, announced, decode

HEAD = 4096
"""Bytes that a look brings: the head of any object, all of a small one."""
_RUNG = 60.0
_KEPT = 100.0
"""Leases after which a sign of life goes by itself: long after anybody who waits has judged by it."""
_BELL = Frames([b"!"])


class Seen(NamedTuple):
    """What a look at an outcome tells."""

    verdict: Verdict
    payload: Payload | None
    """None: it is more than a look brings."""


class Board:
    """The outcomes in one store. Thread-safe, fork-safe.

    Args:
        url: The store's.
        source: The store, if it is at hand; otherwise it is found, or opened, at the first use.
    """

    def __init__(self, url: str, source: Any = None) -> None:
        self.url = url
        self.source = source
        self.broker = ""
        """Where completion is told; "": in the store itself."""

    @property
    def store(self) -> Any:
        """This process's live Store for `url`."""
        source = self.source
        if source is None or source.closed:
            source = self.source = openers[0](self.url)
        return source

    @cached_property
    def writes(self) -> str:
        """How outcomes are serialized."""
        return StoreSpec.parse(self.url).serializer

    @property
    def reads(self) -> str:
        """How outcomes are read, which this process's policy may restrict."""
        return mode_of(self.url)

    @property
    def place(self) -> str:
        """What all have in common who wait with one wait."""
        return self.url

    @property
    def outage(self) -> float:
        """Seconds that it may be away while somebody waits, as its connector says (`wait_outage`)."""
        return float(getattr(self._connector, "wait_outage", 0.0))

    def announce(self, key: Key, payload: Payload, ttl: float | None, store: Any = None) -> None:
        """Write once.

        Args:
            key: The future's.
            payload: The outcome.
            ttl: Seconds after which it expires; None for never.
            store: Another one for what is large, where completion does not travel by the store.

        Raises:
            KeyExists: There is an outcome.
        """
        if store is not None:
            raise ConfigurationError(
                f"A future in {self.url} is set there and nowhere else; one with a broker may be set in any store."
            )
        self.store.put_payload(payload, key, ttl=ttl)

    def wait_any(self, keys: Sequence[Key], timeout: float | None) -> list[Key]:
        """Those of `keys` that have an outcome, as soon as one has; empty when `timeout` seconds have passed."""
        return self._connector.wait_any(keys, timeout)  # type: ignore[no-any-return]  # SupportsWatch

    def wait(self, key: Key, timeout: float | None) -> bool:
        """Whether `key` has an outcome within `timeout` seconds."""
        return self._connector.wait(key, timeout)  # type: ignore[no-any-return]  # as above

    def look(self, key: Key) -> Seen | None:
        """What the outcome is, in one short round trip; None without one."""
        frames: Frames | None = self.store.connector.get_range(key, 0, HEAD)
        if frames is None:
            return None
        if frames.nbytes < HEAD:
            whole = decode(frames)
            return Seen(verdict_of(whole.type), whole)
        verdict = verdict_of(announced(frames)[1])
        payload = None if verdict is Verdict.VALUE else self.fetch(key)
        return Seen(verdict, payload)

    def fetch(self, key: Key) -> Payload | None:
        """The outcome, None without one."""
        try:
            return self.store.fetch(key)  # type: ignore[no-any-return]  # a Store, behind the floor
        except KeyNotFound:
            return None

    def landed(self, key: Key) -> Ref[Any] | None:
        """The plain reference to a result that is there."""
        return Ref(self.url, key, source=self.source)

    def exists(self, key: Key) -> bool:
        """Whether there is an outcome, without waiting."""
        return self.look(key) is not None

    def evict(self, key: Key) -> bool:
        """Delete an outcome; whether there was one."""
        return bool(self.store.evict(key))

    # -- signs of life of who promised an outcome --------------------------------------------------------------------

    def beat(self, key: Key, said: bytes, lease: float) -> None:
        """Leave a sign of life for who waits for `key`."""
        self.store.connector.put(Frames([said]), key=_beside(key), ttl=_KEPT * lease, replace=True)

    def listen(self, key: Key) -> bytes | None:
        """The last sign of life, None without a promise."""
        frames: Frames | None = self.store.connector.get(_beside(key))
        return None if frames is None else frames.tobytes()

    def hush(self, key: Key) -> None:
        """Take the promise back, or forget it."""
        self.store.connector.evict(_beside(key))

    # -- a bell, to call back who waits: an object that means nothing --------------------------------------------

    def bell(self, near: Key) -> Key:
        """A key to wait for along with others; where `near` lies, so that who only waits makes no namespace."""
        return Key.draw(near.where)

    def ring(self, bell: Key) -> None:
        """Have who waits for `bell` go on."""
        self.store.connector.put(_BELL, key=bell, ttl=_RUNG, replace=True)

    def silence(self, bell: Key) -> None:
        """Forget that it rang."""
        try:
            self.store.connector.evict(bell)
        except ProxyfabError:  # it goes by itself
            pass

    def check(self) -> None:
        """Raise what is wrong with the place as a whole."""
        self.store.exists(self.store.reserve())

    @property
    def _connector(self) -> Any:
        connector = self.store.connector
        if not isinstance(connector, SupportsWatch):
            raise CapabilityError(
                f"Nobody can wait for objects in {self.url}: its connector has no wait_any; derive it from "
                "BaseConnector."
            )
        return connector


def _beside(key: Key) -> Key:
    """Where signs of life lie. Of a long name, a digest."""
    id = f"{key.id}.promise"
    return Key(
        id if len(id) <= MAX_ID else f"{blake2b(key.id.encode(), digest_size=16).hexdigest()}.promise", key.where
    )
