"""What a checkpoint is beside a topic: one value that changes by compare-and-set, and what is too large for it.

    checkpoints/<group>/<name>    Head: whose it is, how often it changed, what is to be evicted, and the body
    body                          Saved: what was seen, the state, what is to be published; in a store where it is large

Rules:
1. Objects are stored before the value that needs them is set, under keys that say whose commit they belong to. So
   whoever takes over from one that was killed in between knows what to evict.
2. What the value before needed and this one does not is named in this one, and evicted after it was set: again by
   whoever takes over.
3. No pickle stands in a value: a state that the safe serializer does not know is an object in the store.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from proxyfab.buffers import Frames
from proxyfab.errors import (
    CapacityError,
    Conflict,
    ConnectorError,
    IntegrityError,
    KeyNotFound,
    ProxyfabError,
    SerializationError,
)
from proxyfab.events.broker import State
from proxyfab.keys import Key
from proxyfab.patterns.stream.outputs import Outgoing
from proxyfab.ref import openers
from proxyfab.retry import Backoff
from proxyfab.serialize import dumps, loads
from proxyfab.store import Store
from proxyfab.wire.payload import Payload, decode, encode

MOST = 384 << 10
"""Bytes of a value; brokers take 512 KiB."""
LARGE = 32 << 10
"""Bytes from which a state goes to the store, if there is one."""
_BATCH = 32


class Saved(msgspec.Struct, array_like=True):
    """What a checkpoint remembers.

    Attributes:
        seen: Runs of numbers by producer, epoch and partition; who was seen last is last.
        state: The user's, serialized; b"" for none.
        stored: The key of a state that lies in the store.
        numbers: The next number on each topic and partition.
        at: Up to which offset of these nothing of the outbox can lie.
        outbox: Frames that may not be published yet.
        ended: Whether nothing more is sent.
    """

    seen: list[tuple[str, int, int, list[int]]] = []
    state: bytes = b""
    stored: list[str] | None = None
    numbers: dict[str, dict[int, int]] = {}
    at: dict[str, dict[int, int]] = {}
    outbox: list[Outgoing] = []
    ended: bool = False


class Head(msgspec.Struct, array_like=True):
    """What is read first.

    Attributes:
        home: Drawn when the checkpoint was made: names what it sends and stores.
        owner: Drawn by whoever has it now.
        fence: How often it was taken over.
        turn: How often something was committed.
        store: The URL of its store, "" for none.
        litter: Fence and turn of commits that may have been broken off.
        drop: Keys that are not needed any more.
        body: A packed Saved; b"" where it lies in the store.
        stored: Its key then.
    """

    home: str
    owner: bytes
    fence: int = 0
    turn: int = 0
    store: str = ""
    litter: list[tuple[int, int]] = []
    drop: list[list[str]] = []
    body: bytes = b""
    stored: list[str] | None = None

    def prefix(self, fence: int, turn: int) -> str:
        """Of the keys that a commit stores under."""
        return f"checkpoint-{self.home}-{fence}-{turn}-"


class Slot:
    """The value of one checkpoint, of which the last revision is known.

    Args:
        state: Where it is kept.
        path: Its name there.
        timeout: Seconds that it is tried to set it.
    """

    def __init__(self, state: State, path: str, timeout: float) -> None:
        self._state = state
        self._path = path
        self._timeout = timeout
        self._revision = 0

    def read(self) -> bytes | None:
        """The value; it can be replaced now."""
        found = self._state.get(self._path)
        self._revision = 0 if found is None else found.revision
        return None if found is None else found.value

    def replace(self, value: bytes) -> None:
        """Set it, also where answers get lost; no two values are the same.

        Raises:
            Conflict: Somebody else has set it since it was read, or set here.
            ConnectorError: The broker cannot be reached: it may be set, or not.
        """
        until, attempt = time.monotonic() + self._timeout, 0
        while True:
            try:
                self._revision = self._state.put(self._path, value, revision=self._revision)
            except Conflict:
                found = self._state.get(self._path)
                if found is None or found.value != value:
                    raise
                self._revision = found.revision  # ours, of which the answer was lost
            except ConnectorError:
                attempt += 1
                if time.monotonic() > until:
                    raise
                threading.Event().wait(_BACKOFF.pause(attempt))
                continue
            return


_BACKOFF = Backoff(0.02, 2.0, 1.0)
_head = msgspec.msgpack.Decoder(Head)
_saved = msgspec.msgpack.Decoder(Saved)


def read(value: bytes) -> tuple[Head, Saved]:
    """The head and the body of what was kept.

    Raises:
        IntegrityError: It is no checkpoint.
        ProxyfabError: Its store cannot be reached.
    """
    try:
        head = _head.decode(value)
        body = head.body
        if head.stored is not None:
            body = openers[0](head.store).resolve(Key(*head.stored))
        return head, _saved.decode(body) if body else Saved()
    except (msgspec.MsgspecError, TypeError) as error:
        raise IntegrityError(f"What is kept of a checkpoint is damaged: {error}.") from error


def packed(head: Head) -> bytes:
    """The value for a head whose body is known."""
    return msgspec.msgpack.encode(head)


def put_body(head: Head, saved: Saved, store: Store | None) -> None:
    """Put a body into its head, whose `turn` is the new one, or into the store where it is large.

    Raises:
        CapacityError: It is large, and there is no store.
    """
    body = msgspec.msgpack.encode(saved)
    if len(body) <= MOST:
        head.body, head.stored = body, None
    elif store is not None:
        key = store.put(body, key=head.prefix(head.fence, head.turn) + "body", replace=True)
        head.body, head.stored = b"", [key.id, key.where]
    else:
        raise CapacityError(
            f"A checkpoint with what it is to send has {len(body)} bytes, more than {MOST}: give it a store, or commit "
            "more often."
        )


# -- the user's state ----------------------------------------------------------------------------------------------


def save_state(saved: Saved, state: Any, prefix: str, store: Store | None) -> None:
    """Put a user's state into a body, or into the store.

    Raises:
        SerializationError: Only pickle knows it, and there is no store.
    """
    try:
        payload: Payload | None = dumps(state, mode="safe")
    except SerializationError as error:
        if store is None:
            raise SerializationError(f"A checkpoint without a store takes plain state only. {error}") from error
        payload = None
    if payload is not None and (store is None or payload.nbytes < LARGE):
        saved.state, saved.stored = encode(payload, checksum=True).tobytes(), None
        return
    assert store is not None
    key = store.put(state, key=prefix + "state", replace=True)
    saved.state, saved.stored = b"", [key.id, key.where]


def load_state(head: Head, saved: Saved, initial: Any) -> Any:
    """The inverse; `initial` where nothing was committed yet.

    Raises:
        KeyNotFound: Somebody has evicted it.
    """
    if saved.stored is not None:
        try:
            return openers[0](head.store).resolve(Key(*saved.stored))
        except KeyNotFound as error:
            raise KeyNotFound(f"The state of a checkpoint is gone from its store. {error}") from error
    if not saved.state:
        return initial
    return loads(decode(Frames([saved.state])), mode="safe")


# -- what is left behind -------------------------------------------------------------------------------------------


def clean(head: Head) -> None:
    """Evict what nobody needs: keys that were named, and all of commits that were broken off.

    What cannot be reached now is left to whoever has the checkpoint next.
    """
    if not head.store or not (head.drop or head.litter):
        return
    try:
        store: Store = openers[0](head.store)
        store.evict_many([Key(*key) for key in head.drop])
        for fence, turn in head.litter:
            _evict_all(store, head.prefix(fence, turn))
    except ProxyfabError:
        return


def _evict_all(store: Store, prefix: str) -> None:
    """Evict all objects of a commit; they are numbered without gaps."""
    store.evict_many([Key(prefix + "state"), Key(prefix + "body")])
    start = 0
    while any(store.evict_many([Key(f"{prefix}{number}") for number in range(start, start + _BATCH)])):
        start += _BATCH
