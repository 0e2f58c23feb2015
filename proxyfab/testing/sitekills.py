"""Kill -9 the gateways of two sites, and the relay between them, amid everything that crosses, and judge what was seen.

    with SiteKills("relay", seed=7) as kills:
        report = kills.run("readers", 100)
    assert report.ok, report

At `aps` and at `alcf` a thread each puts, gets, prefetches, pushes, evicts, and puts under the other's names. Whoever
is hit is started anew at its address. Each call must end within its time and a second: well, or with one of the errors
that are declared. What was put and not evicted is never `None` and never other bytes, and is lost only with its home.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways, RelayServer
from proxyfab.testing.leaks import SHARED
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import until

if TYPE_CHECKING:
    from typing import Self

Struck: TypeAlias = Literal["homes", "readers", "relays"]
TIMEOUT = 5.0
"""Seconds that a call may take."""
GRACE = 1.0
SIZES = (0, 1000, 70_000, 1_000_000, 5_000_000)
DECLARED = frozenset({"ConnectorError", "ResolveTimeout", "ObjectLost"})
_RECOVERY = 30.0
_HELD = 40
_LARGE = 256 << 10
_SPARE = 24
"""Descriptors and threads that a gateway may have more than at first: streams come and go."""


def places() -> list[str]:
    """How the two sites meet."""
    return ["direct", "relay"]


def kinds(place: str) -> tuple[Struck, ...]:
    """Who can be killed there."""
    return ("homes", "readers", "relays") if place == "relay" else ("homes", "readers")


class Item(NamedTuple):
    """What was put."""

    key: Key
    home: str
    size: int
    lives: int
    """How often its home had been killed before it was put."""

    def content(self) -> bytes:
        """What it has to be."""
        return random.Random(self.key.id).randbytes(self.size)


@dataclass
class Report:
    """What a run did and what came of it."""

    place: str
    killed: Struck
    seed: int
    kills: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    well: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    """What was broken, in words."""

    def breaks(self, rule: str, text: str) -> None:
        """A promise was broken."""
        self.broken[rule] += 1
        self.said.append(f"{rule}: {text}")

    @property
    def ok(self) -> bool:
        """Whether faults happened, work was done and every promise was kept."""
        return bool(self.kills) and not self.broken and self.well["get"] > 0 and self.well["put"] > 0

    def row(self) -> dict[str, object]:
        """Its figures."""
        return {
            "place": self.place,
            "killed": self.killed,
            "seed": self.seed,
            "kills": self.kills,
            "ended well": sum(self.well.values()),
            "by call": dict(self.well),
            "errors": dict(self.errors),
            **{rule: self.broken[rule] for rule in _RULES},
            "slowest answer [s]": round(self.slowest, 2),
            "seconds": round(self.seconds, 1),
            "ok": self.ok,
        }

    def __str__(self) -> str:
        return "\n".join([*(f"{key}: {value}" for key, value in self.row().items()), *self.said[:20]])


_RULES = ("wrong", "none", "lost", "late", "undeclared", "stuck", "fault", "left")
COLUMNS = ("place", "killed", "kills", "ended well", *_RULES, "errors", "slowest answer [s]", "seconds", "ok")


class Worker(threading.Thread):
    """What processes of one site do, until `over`.

    Args:
        kills: The run.
        site: Where it is.
        other: The other site.
    """

    def __init__(self, kills: SiteKills, site: str, other: str) -> None:
        super().__init__(name=f"proxyfab-work-{site}")
        self._kills, self.site, self._other = kills, site, other
        self._dice = random.Random(f"{kills.seed}.{site}")
        self._store = Store(f"{kills.sites.url(site)}&timeout={TIMEOUT:g}", cache=0)
        self._connector: Any = self._store.connector
        self._numbers = iter(range(1 << 60))
        self.last = 0.0
        """When something of the other site was got last."""

    def run(self) -> None:
        acts = (
            [self._put] * 3
            + [self._get] * 6
            + [self._get_many] * 2
            + [self._push, self._fetch, self._give, self._evict]
        )
        with self._store:
            while not self._kills.over.is_set():
                self._dice.choice(acts)()

    def _call(self, what: str, act: Callable[[], Any], items: list[Item]) -> Any:
        """Do it; None when it ended with an error."""
        report, begun, lives = self._kills.report, time.monotonic(), dict(self._kills.lives)
        found = None
        try:
            found = act()
            report.well[what] += 1
        except ProxyfabError as error:
            self._judge(what, error, items, lives)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            report.breaks("undeclared", f"{what} at {self.site} raised {type(error).__name__}: {error}")
        took = time.monotonic() - begun
        report.slowest = max(report.slowest, took)
        if took > TIMEOUT + GRACE:
            report.breaks("late", f"{what} at {self.site} took {took:.1f} s")
        return found

    def _judge(self, what: str, error: ProxyfabError, items: list[Item], lives: dict[str, int]) -> None:
        kind, report = type(error).__name__, self._kills.report
        report.errors[kind] += 1
        if kind not in DECLARED:
            report.breaks("undeclared", f"{what} at {self.site} raised {kind}: {error}")
        elif kind == "ObjectLost" and all(self._kills.lives[item.home] == item.lives for item in items):
            report.breaks("lost", f"{what} at {self.site}: {error} ({lives})")

    def _new(self, home: str) -> Item:
        key = Key(f"{self.site}-{next(self._numbers)}")
        return Item(key, home, self._dice.choice(SIZES), self._kills.lives[home])

    def _put(self) -> None:
        item = self._new(self.site)
        key = self._call("put", lambda: self._store.put(item.content(), key=item.key), [item])
        if key is not None:
            self._kills.there(item._replace(key=key))

    def _some(self, many: int, home: str) -> list[Item]:
        known = list(self._kills.known[home])
        return self._dice.sample(known, min(many, len(known)))

    def _get(self) -> None:
        for item in self._some(1, self._other):
            found = self._call("get", lambda item=item: (self._store.get(item.key),), [item])  # type: ignore[misc]
            if found is not None:
                self._look("get", item, found[0])

    def _get_many(self) -> None:
        items = self._some(4, self._other)
        if items:
            found = self._call("get_many", lambda: self._store.get_many([item.key for item in items]), items)
            for item, value in zip(items, found or (), strict=False):
                self._look("get_many", item, value)

    def _look(self, what: str, item: Item, value: object) -> None:
        if value is None:
            if self._kills.is_known(item):
                self._kills.report.breaks("none", f"{what} at {self.site} of {item}")
        elif value != item.content():
            self._kills.report.breaks("wrong", f"{what} at {self.site} of {item}")
        else:
            self.last = time.monotonic()

    def _push(self) -> None:
        items = self._some(2, self.site)
        if items:
            self._bring("push", items, self._other)

    def _fetch(self) -> None:
        items = self._some(2, self._other)
        if items:
            self._bring("prefetch", items, self.site)

    def _bring(self, what: str, items: list[Item], to: str) -> None:
        found = self._call(what, lambda: self._connector.push([item.key for item in items], to), items)
        for item, there in zip(items, found or (), strict=False):
            if not there and self._kills.is_known(item):
                self._kills.report.breaks("none", f"{what} at {self.site} of {item}")

    def _give(self) -> None:
        """Put under a name of the other site."""
        for known in self._some(1, self._other):
            item = self._new(self._other)
            item = item._replace(key=item.key.at(known.key.where), lives=known.lives)
            if self._call("give", lambda item=item: self._store.put(item.content(), key=item.key), [item]):  # type: ignore[misc]
                self._kills.there(item)

    def _evict(self) -> None:
        for item in self._some(1, self.site):
            self._kills.known[self.site].remove(item)
            self._call("evict", lambda item=item: self._store.evict(item.key), [item])  # type: ignore[misc]


class SiteKills:
    """Runs work at two sites and kills what carries it; use it in a `with` block.

    Args:
        place: `direct`, or `relay`.
        seed: Of everything random here.
    """

    def __init__(self, place: str, *, seed: int) -> None:
        self.place, self.seed = place, seed
        self.over = threading.Event()
        self.lives: Counter[str] = Counter()
        """How often each site's gateway was killed."""
        self.known: dict[str, deque[Item]] = {name: deque(maxlen=_HELD) for name in ("aps", "alcf")}
        self.report = Report(place, "homes", seed)
        self._relay: RelayServer | None = None
        self._dice = random.Random(seed)
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            self._root = Path(ends.enter_context(_shared_memory()))
            if self.place == "relay":
                self._relay = ends.enter_context(RelayServer())
            way = "" if self._relay is None else str(self._relay.ready["listen"])
            self.sites = ends.enter_context(Gateways("aps", "alcf", relay=way, options=["--streams", "4"]))
            server = self.sites.servers["aps"]
            if "--listen" in server.arguments:  # and there again when it is started anew
                server.arguments[server.arguments.index("--listen") + 1] = str(server.ready["listen"])
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def there(self, item: Item) -> None:
        """It was put."""
        self.known[item.home].append(item)

    def is_known(self, item: Item) -> bool:
        """Whether it was not evicted, and its home not killed since."""
        return item in self.known[item.home] and self.lives[item.home] == item.lives

    def run(self, killed: Struck, count: int) -> Report:
        """Kill as many, one after the other, and judge."""
        report = self.report = Report(self.place, killed, self.seed)
        begun = time.monotonic()
        workers = [Worker(self, "aps", "alcf"), Worker(self, "alcf", "aps")]
        for worker in workers:
            worker.start()
        try:
            self._recovered(workers, 0.0)
            before = self._held()
            for _ in range(count):
                self._strike(killed, workers)
        finally:
            self.over.set()
            for worker in workers:
                worker.join(2 * TIMEOUT)
                if worker.is_alive():
                    report.breaks("stuck", f"{worker.name} does not end")
        if not until(
            lambda: all(now <= then + _SPARE for now, then in zip(self._held(), before, strict=True)), TIMEOUT
        ):
            report.breaks("left", f"descriptors and threads of gateways were {before}, and are {self._held()}")
        self._end(report)
        report.seconds = time.monotonic() - begun
        return report

    def _strike(self, killed: Struck, workers: list[Worker]) -> None:
        pause = threading.Event()
        pause.wait(self._dice.uniform(0.0, 0.3))
        server = self._victim(killed)
        said = server.kill()
        self.report.kills += 1
        if "Traceback" in said:
            self.report.breaks("fault", said[-1500:])
        if killed != "relays":
            self.lives["aps" if killed == "homes" else "alcf"] += 1
        pause.wait(self._dice.uniform(0.0, 0.3))
        if isinstance(server, RelayServer):
            server.listen = str(server.ready["listen"])
        server.bind = server.bind if isinstance(server, RelayServer) else str(server.ready["endpoints"][0])
        server.start()
        self._recovered(workers, time.monotonic())

    def _victim(self, killed: Struck) -> NodeServer:
        if killed == "relays":
            assert self._relay is not None, "there is no relay to kill"
            return self._relay
        return self.sites.servers["aps" if killed == "homes" else "alcf"]

    def _recovered(self, workers: list[Worker], since: float) -> None:
        """Wait until each site has got something of the other."""
        if not until(lambda: all(worker.last > since for worker in workers), _RECOVERY):
            self.report.breaks("stuck", f"nothing crossed for {_RECOVERY:g} s after kill {self.report.kills}")

    def _held(self) -> list[int]:
        """Descriptors and threads of the gateways, but for those of objects, which may be as many as are there."""
        pids = [server.pid for server in self.sites.servers.values()]
        return [number for pid in pids for number in (self._descriptors(pid), len(os.listdir(f"/proc/{pid}/task")))]

    def _descriptors(self, pid: int) -> int:
        count = 0
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                count += not os.readlink(path).startswith(str(self._root))
        return count

    def _end(self, report: Report) -> None:
        """End all, and see what lies where objects were."""
        for server in self.sites.servers.values():
            status, said = server.end(20.0)
            if status != 0 or "Traceback" in said:
                report.breaks("fault", f"status {status}: {said[-1500:]}")
        with SharedMemoryConnector() as connector:
            connector.reap()
        for path in self._root.rglob("*"):
            if path.is_file() and path.stat().st_size > _LARGE:
                report.breaks("left", f"{path} ({path.stat().st_size} bytes)")


@contextlib.contextmanager
def _shared_memory() -> Iterator[str]:
    """A place of its own for what gateways keep in shared memory."""
    shared = str(SHARED) if os.access(SHARED, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="proxyfab-kills-", dir=shared) as root:
        before = os.environ.get("PROXYFAB_SHM_DIR")
        os.environ["PROXYFAB_SHM_DIR"] = root
        try:
            yield root
        finally:
            os.environ.pop("PROXYFAB_SHM_DIR")
            if before is not None:
                os.environ["PROXYFAB_SHM_DIR"] = before
