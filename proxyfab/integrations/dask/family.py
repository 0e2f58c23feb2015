"""The transport: between processes of one host the large buffers of a value go past the sockets.

Dask turns values into a header and frames by *families*, which it tries in turn: "dask", then "pickle". Here the family
"dask" is registered anew, around Dask's own: it makes of a value what Dask makes of it, header and frames; but for a
recipient on the same host the header says where the large frames lie. He copies them into memory of his own, and has
Dask's own families make the value of header and frames. So types, flags and everything that somebody taught Dask to
serialize are as ever.

- They lie in the memory of the sender, where he waits until they are copied (`lent`) and the kernel lets the recipient
  look there: one copy, and no room. Else they are put into shared memory (`published`), and the recipient takes their
  name away.
- Who sees the same shared memory, or may look, has said so: processes that take part say it in the handshake of the
  connections on which they fetch. Nothing is asked of anybody else, and to him nothing changes: a family of a name of
  its own would, as one that a peer does not know is an error there.
- A copy into private memory, not a mapping that copies on write: it costs the same where the value is only read, a
  sixth where it is written to, frees the sender's memory at once, and needs no lease.

Promises: what cannot be put (no room, no rights) goes by Dask's own frames, with one warning. What was announced and is
not there any more is a lost connection to Dask, which asks anew; after a few in a row this process takes no more part.
"""

from __future__ import annotations

import errno
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

from distributed.comm import utils
from distributed.protocol.serialize import (
    dask_dumps,
    dask_loads,
    pickle_dumps,
    pickle_loads,
    register_serialization_family,
)

from proxyfab.buffers import byte_view
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask.figures import Figures
from proxyfab.integrations.dask.home import sight, version
from proxyfab.integrations.dask.lent import grows_to, lend, lender
from proxyfab.integrations.dask.loading import own, room
from proxyfab.integrations.dask.published import Published
from proxyfab.keys import Key
from proxyfab.members import Members
from proxyfab.osio.across import Loan, Lost, Refused, borrow, horizon
from proxyfab.osio.memory import new_bytes, unfilled_bytes
from proxyfab.osio.owner import Writer, this_process
from proxyfab.osio.root import Root
from proxyfab.osio.shared import check_mine, default_root, shared_at
from proxyfab.wire.layout import spans_of

logger = logging.getLogger(__name__)

MARK = "proxyfab"
"""What we add to handshakes and headers is under this name."""
READER = "proxyfab-reader"
"""In handshakes: which process it is, so that nothing waits for one that has ended."""
HORIZON = "proxyfab-horizon"
"""In handshakes: of whose memory it may borrow (`osio.across.horizon`)."""
WORDS = (MARK, READER, HORIZON)
ABOVE = 1 << 20
"""Bytes of a value in large frames from which on shared memory is faster than a socket."""
LARGE = 64 * 1024
"""Bytes of a large frame; smaller ones go with the header."""
MEMORY = 8 << 30
"""What a process is taken to have that has no limit of its own."""
_WARM = 8
_WAITING = 4
_GIVES_UP = 3
_ENDED = 10
"""Loans in a row that were over too early, as those are of whoever gives up what he asked for, until none is taken."""
_HEAVY = 12
"""An answer with so many times what Dask has a thread deserialize: copying 120 MiB takes some 20 ms, zeros 3."""
_LOADS = {"dask": dask_loads, "pickle": pickle_loads}


class TransportLost(OSError):
    """What a peer has announced is not there any more: to Dask a lost connection, so that it asks anew."""


class Lane:
    """This process's part in the transport.

    Attributes:
        sight: What the process says in handshakes; those who say the same see the same shared memory.
        horizon: What it says there, too; those who say the same may borrow of one another; `""` if none may.
        figures: What was done.

    Args:
        memory: Bytes that the process is meant to have, for what may wait for its readers and what may be kept warm:
            both may count as memory of this process.
        above: Bytes of large frames from which a value goes through shared memory.
    """

    def __init__(self, memory: int = MEMORY, above: int = ABOVE) -> None:
        root = default_root()
        check_mine(root)
        Root.make(root)
        self.sight = f"{version()} {sight()}"
        self.horizon = horizon()
        self.figures = Figures()
        self.above = above
        self.shared = shared_at(root)
        self.shared.pool.limit = min(self.shared.pool.limit, memory // _WARM)
        self.shared.mappings.limit = min(self.shared.mappings.limit, memory // _WARM)
        self._connector = SharedMemoryConnector()
        self.published = Published(self._connector, self.shared, memory // _WAITING)
        self._pools: Members[Any] = Members()
        self._lost_in_a_row = 0
        self._warned = False

    # -- who takes part ------------------------------------------------------------------------------------------

    def announce(self, pool: Any) -> None:
        """Say in the handshakes of this pool of Dask's connections what this process sees."""
        _say(pool, self._words())
        pool.collect()  # connections that are open have said nothing
        self._pools.add(pool)

    def _words(self) -> dict[str, str]:
        said = {MARK: self.sight, READER: this_process().writer.pack(0)}
        return said | {HORIZON: self.horizon} if self.horizon else said

    def retract(self, pool: Any) -> None:
        """The opposite of `announce`, as far as connections to come are concerned."""
        _say(pool, {})
        self._pools.discard(pool)

    def close(self) -> None:
        """Take no part any more; nothing stays published."""
        for pool in self._pools:
            self.retract(pool)
        self.published.close()
        self._connector.close()

    # -- values on their way -------------------------------------------------------------------------------------

    def send(self, x: object, context: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """What Dask makes of a value; of large frames, if they are worth it, only where they lie."""
        try:
            header, frames = dask_dumps(x, context=context)
            plain = header
        except NotImplementedError:
            header, frames = pickle_dumps(x, context=context)
            plain = {MARK: {"inner": header}}
        views = [byte_view(frame) for frame in frames]  # Dask's own way may crash: see `flat_view`
        large = {place: view for place, view in enumerate(views) if view.nbytes >= LARGE}
        sizes = [view.nbytes for view in large.values()]
        nbytes = sum(sizes)
        if nbytes < self.above:
            return plain, frames
        mark = {"inner": header, "places": list(large), "sizes": sizes, "bytes": type(x) is bytes}
        where = self._left(list(large.values()), nbytes, context)
        if where is None:
            return plain, frames
        rest = [frame for place, frame in enumerate(frames) if place not in large]
        weight = _weight(nbytes)
        return {MARK: {**mark, **where, "weights": len(weight)}}, rest + weight

    def _left(self, buffers: list[memoryview], nbytes: int, context: dict[str, Any]) -> dict[str, Any] | None:
        """Leave these where the recipient finds them, and say where; None if they have to go by the socket."""
        if self.horizon and context["recipient"].get(HORIZON) == self.horizon and (loan := lend(buffers)) is not None:
            self.figures.add("lent", nbytes)
            return {"loan": loan}
        try:
            key = self.published.publish(buffers, _reader(context))
        except (ProxyfabError, OSError) as error:
            self._warn(f"Large values of Dask go through its sockets, as shared memory could not be used: {error}")
            key = None
        if key is None:
            self.figures.add("fallbacks")
            return None
        self.figures.add("published", nbytes)
        return {"key": key}

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def fetch(self, mark: dict[str, Any], frames: list[Any]) -> list[Any]:
        """All frames of a value: those that came by the socket, and copies of those that lie elsewhere on this host.

        Raises:
            TransportLost: They do not lie there.
        """
        try:
            if "loan" in mark:
                found = self._borrow(Loan(*mark["loan"]), mark["sizes"], as_bytes=mark["bytes"])
            else:
                found = self._take(Key.parse(mark["key"]), mark["sizes"], new_bytes if mark["bytes"] else own)
        except (ProxyfabError, OSError) as error:
            self._lose(error)
            raise TransportLost(f"A value of a process on this host could not be read: {error}") from error
        self._lost_in_a_row = 0
        self.published.touch()
        self.figures.add("received", sum(mark["sizes"]))
        rest = iter(frames)
        large = dict(zip(mark["places"], found, strict=True))
        count = len(frames) + len(found) - mark["weights"]
        return [large[place] if place in large else next(rest) for place in range(count)]

    def _take(self, key: Key, sizes: list[int], make: Callable[[memoryview], Any]) -> list[Any]:
        stored = self._connector.get(key)
        if stored is None:
            raise TransportLost(f"{key} is not in shared memory any more; its worker has ended, or it is late")
        self._connector.evict(key)  # now: if this process is killed while it copies, nobody else would
        whole = stored.join()
        return [make(whole[low:high]) for low, high in spans_of(sizes, 0, whole.nbytes)]

    @staticmethod
    def _borrow(loan: Loan, sizes: list[int], *, as_bytes: bool) -> list[Any]:
        make: Callable[[int], tuple[Any, int]] = unfilled_bytes if as_bytes else room
        made = [make(size) for size in sizes]
        borrow(loan, [(address, size) for (_, address), size in zip(made, sizes, strict=True)])
        return [block for block, _ in made]

    def _lose(self, error: Exception) -> None:
        """Take no more part in what goes wrong again and again."""
        self.figures.add("lost")
        if getattr(error, "errno", None) == errno.ESRCH:  # who lent it has ended, which says nothing of the way
            return
        self._lost_in_a_row += 1
        if isinstance(error, Refused) or (isinstance(error, Lost) and self._lost_in_a_row >= _ENDED):
            self._borrow_no_more(error)
        elif self._lost_in_a_row >= _GIVES_UP and not isinstance(error, Lost):
            for pool in self._pools:
                self.retract(pool)
            self._warn(f"Values of Dask are not fetched from shared memory any more, as that failed: {error}")

    def _borrow_no_more(self, error: Exception) -> None:
        """What is to come goes through shared memory."""
        logger.info("Values of Dask are not copied out of other processes any more: %s", error)
        self.horizon, self._lost_in_a_row = "", 0
        for pool in self._pools:
            _say(pool, self._words())  # on connections to come; one that is open loses its value once at most

    def told(self) -> dict[str, int]:
        """The figures, and what waits for its readers."""
        live, live_bytes = self.published.waiting()
        return {**self.figures.told(), "on_loan": len(lender), "live": live, "live_bytes": live_bytes}


def _say(pool: Any, words: dict[str, str]) -> None:
    """Have the handshakes of a pool say these of our words, and no others."""
    before = pool.connection_args.get("handshake_overrides", {})
    said = {word: value for word, value in before.items() if word not in WORDS}
    pool.connection_args = {**pool.connection_args, "handshake_overrides": said | words}


def _weight(nbytes: int) -> list[Any]:
    """What goes along so that the recipient's event loop does not copy so much itself: a frame of zeros, or nothing.

    Dask has a thread do what it sees to be large. What comes past the sockets it does not see.
    """
    limit = utils.OFFLOAD_THRESHOLD
    return [bytes(limit + 1)] if limit and grows_to(_HEAVY * limit, nbytes) else []


def _reader(context: dict[str, Any]) -> Writer | None:
    said = context.get("recipient", _NOBODY).get(READER)
    return Writer.unpack(said) if said else None


def _dumps(x: object, context: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[Any]]:
    lane = _lane
    if lane is not None and context is not None and context.get("recipient", _NOBODY).get(MARK) == lane.sight:
        return lane.send(x, context)
    return dask_dumps(x, context=context)  # type: ignore[no-any-return]  # Dask has no types


def _loads(header: dict[str, Any], frames: list[Any]) -> object:
    mark = header.get(MARK)
    if mark is None:
        return dask_loads(header, frames)
    if "places" in mark:
        if _lane is None:
            raise TransportLost("This process does not take part in the transport any more.")
        frames = _lane.fetch(mark, frames)
    inner = mark["inner"]
    return _LOADS[inner["serializer"]](inner, frames)


_NOBODY: dict[str, Any] = {}
_lane: Lane | None = None
_users = 0
_joining = threading.RLock()


def join(memory: int = MEMORY, above: int = ABOVE) -> Lane:
    """Have this process take part; whoever calls this calls `leave` once. The first one's arguments count.

    Raises:
        ProxyfabError: There is no shared memory for it.
    """
    global _lane, _users
    with _joining:
        if _lane is None:
            _lane = Lane(memory, above)
            register_serialization_family("dask", _dumps, _loads)
        _users += 1
        return _lane


def leave() -> None:
    """One that joined leaves; with the last one all is as before."""
    global _lane, _users
    with _joining:
        _users -= 1
        if _users == 0 and _lane is not None:
            lane, _lane = _lane, None
            register_serialization_family("dask", dask_dumps, dask_loads)
            lane.close()


def told() -> dict[str, int]:
    """What this process's transport has done; nothing where it takes no part."""
    lane = _lane
    return {} if lane is None else lane.told()
