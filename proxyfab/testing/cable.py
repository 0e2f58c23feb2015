"""Cable: what lies between a client and a real server, to be cut, silenced, slowed and spoiled at a chosen moment.

    with Cable(f"127.0.0.1:{server.port}") as cable:
        client = connect(cable.through(server.url))
        cable.pause()

Promises: a fault has happened when the call that asks for it returns, it holds for connections that exist and for new
ones, and `heal` ends it; `carried`, `resets`, `flipped` and `dropped` say what really happened, for tests to assert.
Nothing is left: no socket, no thread, no file. One thread carries all connections.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest

from proxyfab.errors import ConfigurationError
from proxyfab.fork import on_fork
from proxyfab.testing.pipes import Conditions, Line, Pipe, Severed
from proxyfab.testing.processes import DEADLINE, until

if TYPE_CHECKING:
    from typing import Self

Way: TypeAlias = Literal["up", "down", "both"]
"""`up`: from the client to the server."""
_RESET = struct.pack("ii", 1, 0)
_PATIENCE = struct.pack("ll", 2, 0)


class Cable:
    """Listens beside `target` and carries every connection there. Thread-safe; use it in a `with` block.

    Args:
        target: `host:port`, `tcp://host:port`, `ipc://path`, or the path of a Unix socket.
        seed: Of the jitter.

    Attributes:
        address: What to connect to instead of the target: `host:port`, or a path.
        port: The port of `address`, 0 for a Unix socket.
        connections: Connections accepted so far.
        resets: Connections reset so far, by whatever was asked for.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.target = target.removeprefix("tcp://").removeprefix("ipc://").rstrip("/")
        self.connections = 0
        self.resets = 0
        self._up, self._down = Conditions(), Conditions()
        self._dice = random.Random(seed)
        self._refusing = False
        self._lines: list[Line] = []
        self._errands: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._directory = tempfile.mkdtemp(prefix="proxyfab-cable-") if self._unix else ""
        self._listener = self._listen()
        self.address = self._listener.getsockname() if self._unix else "{}:{}".format(*self._listener.getsockname())
        self.port = 0 if self._unix else int(self._listener.getsockname()[1])
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="proxyfab-cable", daemon=True)
        self._thread.start()
        on_fork(self)

    # -- where it is -------------------------------------------------------------------------------------------------

    @property
    def _unix(self) -> bool:
        return "/" in self.target

    def through(self, url: str) -> str:
        """`url` with the target's address replaced by the cable's."""
        if self.target not in url:
            raise ConfigurationError(f"{url} does not lead to {self.target}, where this cable ends.")
        return url.replace(self.target, self.address)

    # -- what it has done --------------------------------------------------------------------------------------------

    def carried(self, way: Way = "both") -> int:
        """Bytes passed on so far."""
        return sum(conditions.carried for conditions in self._ways(way))

    @property
    def dropped(self) -> int:
        """Bytes swallowed so far, by black holes, resets and silence."""
        return self._up.dropped + self._down.dropped

    @property
    def flipped(self) -> int:
        """Bits that arrived inverted."""
        return self._up.flipped + self._down.flipped

    @property
    def live(self) -> int:
        """Connections that exist now."""
        return len(self._lines)

    def moved(self, nbytes: int, way: Way = "both", timeout: float = DEADLINE) -> bool:
        """Wait until as many bytes were carried in all; whether they were."""
        return until(lambda: self.carried(way) >= nbytes, timeout)

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Break every connection now, with RST where there is one; new ones are welcome."""
        self._do(self._reset_all)

    def cut(self) -> None:
        """Break every connection, and each new one as soon as it comes, until `heal`."""

        def errand() -> None:
            self._refusing = True
            self._reset_all()

        self._do(errand)

    def cut_after(self, nbytes: int, way: Way = "up") -> None:
        """Break the connection that carries the `nbytes`-th byte from now on, behind that byte. Once each way."""
        self._change(way, lambda conditions: conditions.cuts.append(conditions.carried + nbytes))

    def black_hole(self, way: Way = "both") -> None:
        """Accept everything and pass nothing on, until `heal`, which breaks the connections that lost bytes."""

        def errand() -> None:
            for conditions in self._ways(way):
                conditions.swallowing = True
            for line in self._lines:
                for pipe in self._pipes(line, way):
                    pipe.drop()

        self._do(errand)

    def pause(self, way: Way = "both") -> None:
        """Carry nothing until `heal`; nothing is lost, it backs up into the sender."""

        def change(conditions: Conditions) -> None:
            conditions.paused = True

        self._change(way, change)

    def delay(self, seconds: float, jitter: float = 0.0, way: Way = "both") -> None:
        """Let each byte take longer, one way, by `seconds` and up to `jitter` more."""

        def change(conditions: Conditions) -> None:
            conditions.delay, conditions.jitter = seconds, jitter

        self._change(way, change)

    def limit(self, rate: float, way: Way = "both") -> None:
        """Carry `rate` bytes a second at most, each way, over all connections together."""

        def change(conditions: Conditions) -> None:
            conditions.rate = rate

        self._change(way, change)

    def slice(self, nbytes: int, way: Way = "both") -> None:
        """Write at most `nbytes` at once, without waiting for more."""

        def change(conditions: Conditions) -> None:
            conditions.piece = nbytes

        self._change(way, change)

    def flip(self, offset: int, way: Way = "up", bit: int = 0) -> None:
        """Invert a bit of the byte that comes `offset` bytes from now."""
        self._change(way, lambda conditions: conditions.flips.append((conditions.carried + offset, bit)))

    def half_close(self, way: Way = "up") -> None:
        """Tell the receiving end of each connection that nothing more comes; the other way stays open."""

        def errand() -> None:
            for line in self._lines:
                for pipe in self._pipes(line, way):
                    pipe.ended = True

        self._do(errand)

    def half_open(self, alive: Literal["client", "server"] = "client") -> None:
        """Break each connection at one end only; the other, `alive`, hears nothing of it until `heal`."""

        def errand() -> None:
            for line in self._lines:
                line.silent = True
                self._break(line.server if alive == "client" else line.client)

        self._do(errand)

    def heal(self) -> None:
        """All is well from now on. Connections that lost bytes or an end are broken; paused ones go on."""

        def errand() -> None:
            self._refusing = False
            self._up.heal()
            self._down.heal()
            for line in [line for line in self._lines if line.silent or line.up.lossy or line.down.lossy]:
                self._reset(line)

        self._do(errand)

    # -- its life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Break what is still connected and leave nothing. Idempotent."""
        if not self._open:
            return
        self._do(self._reset_all)
        self._open = False
        self._bell.send(b"!")
        self._thread.join(DEADLINE)
        self._close_sockets()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def after_fork(self) -> None:
        """Let a child hold none of the sockets, or a reset in the parent would reach nobody."""
        self._open = False
        for line in self._lines:
            line.client.close()
            line.server.close()
        self._close_sockets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_sockets(self) -> None:
        self._selector.close()
        for end in (self._listener, self._bell, self._ear):
            end.close()

    def _listen(self) -> socket.socket:
        if self._unix:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{self._directory}/socket")
        else:
            listener = socket.socket(socket.AF_INET)
            listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        return listener

    # -- in its thread -----------------------------------------------------------------------------------------------

    def _do(self, errand: Callable[[], None]) -> None:
        """Let the thread do something between two turns, and wait until it has."""
        if not self._open:
            return
        done = threading.Event()
        self._errands.append((errand, done))
        self._bell.send(b"!")
        if not done.wait(DEADLINE):
            raise TimeoutError(f"The cable to {self.target} does not answer.")

    def _change(self, way: Way, change: Callable[[Conditions], None]) -> None:
        def errand() -> None:
            for conditions in self._ways(way):
                change(conditions)

        self._do(errand)

    def _ways(self, way: Way) -> list[Conditions]:
        return {"up": [self._up], "down": [self._down], "both": [self._up, self._down]}[way]

    def _pipes(self, line: Line, way: Way) -> list[Pipe]:
        return {"up": [line.up], "down": [line.down], "both": [line.up, line.down]}[way]

    def _run(self) -> None:
        ready: set[socket.socket] = set()
        while self._open:
            while self._errands:
                errand, done = self._errands.popleft()
                errand()
                done.set()
            if self._listener in ready:
                self._accept()
            due = self._turn(ready)
            for line in self._lines:
                self._listen_to(line)
            timeout = None if due is None else max(due - time.monotonic(), 0)
            ready = {key.fileobj for key, _ in self._selector.select(timeout)}  # type: ignore[misc]  # all are sockets
            if self._ear in ready:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)

    def _turn(self, ready: set[socket.socket]) -> float | None:
        dues = []
        now = time.monotonic()
        for line in list(self._lines):
            try:
                due = line.turn(ready, now)
            except (OSError, Severed):  # one end broke, or was to break: the other hears of it
                self._reset(line)
                continue
            if due is not None:
                dues.append(due)
            if line.done:
                self._end(line, "shut")
        return min(dues, default=None)

    def _listen_to(self, line: Line) -> None:
        for end in (line.client, line.server):
            wanted = line.wishes(end)
            known = self._selector.get_map().get(end.fileno()) if end.fileno() >= 0 else None
            if known is None and wanted:
                self._selector.register(end, wanted)
            elif known is not None and not wanted:
                self._selector.unregister(end)
            elif known is not None and known.events != wanted:
                self._selector.modify(end, wanted)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = self._listener.accept()
            self.connections += 1
            server = socket.socket(client.family)
            line = Line(client, server, self._up, self._down, self._dice)
            self._lines.append(line)
            for end in (client, server):
                end.setblocking(False)
                if not self._unix:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._refusing or not self._dial(server):
                self._reset(line)

    def _dial(self, server: socket.socket) -> bool:
        """Begin to connect; False when it is known to be in vain."""
        host, _, port = self.target.rpartition(":")
        try:
            if self._unix:
                server.setblocking(True)  # connected at once, unless the server's backlog is full
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
                server.connect(self.target)
                server.setblocking(False)
            else:
                server.connect((host, int(port)))
        except BlockingIOError:
            return not self._unix
        except OSError:
            return False
        return True

    def _reset_all(self) -> None:
        for line in list(self._lines):
            self._reset(line)

    def _reset(self, line: Line) -> None:
        self.resets += 1
        self._end(line, "break")

    def _end(self, line: Line, how: Literal["shut", "break"]) -> None:
        self._lines.remove(line)
        for end in (line.client, line.server):
            self._break(end, reset=how == "break")

    def _break(self, end: socket.socket, *, reset: bool = True) -> None:
        if end.fileno() < 0:
            return
        if end.fileno() in self._selector.get_map():
            self._selector.unregister(end)
        if reset and not self._unix:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.close()


@pytest.fixture
def cable() -> Iterator[Callable[[str], Cable]]:
    """Lays cables to addresses: `cable("127.0.0.1:6379")`. They are gone when the test is over."""
    with contextlib.ExitStack() as laid:
        yield lambda target: laid.enter_context(Cable(target))
