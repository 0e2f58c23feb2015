"""Clients, an administrator and faults at random over erasure://, in a world of their own (`erasure_world`).

A run has phases. In each, clients put, get, evict, swap and ask, the administrator repairs, rebalances, drains or adds,
processes are killed, and no more than m children (fewer than a majority) are hurt: down, hanging, late, lossy, lying,
full, emptied. Between phases all are well again, and then holds:

1. Each key's history is that of a register (`erasure_history`): a call that was answered took effect once, at one
   moment while it was under way; one that was not answered (an error, a kill) at one moment after it began, or never.
   Only a drawn key's copy at a child that an evict did not reach may be read until it was repaired.
2. As many more children as were not hurt, up to m in all, may lose everything, and all that was acknowledged is there.
3. After a repair nothing lacks; two hours later it has taken what nobody means, and nothing is left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure.shard import DRAWN
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, IntegrityError, KeyExists
from proxyfab.keys import Key
from proxyfab.scattering.listing import listed, registered
from proxyfab.scattering.names import locators
from proxyfab.scattering.upkeep import Upkeep
from tests.connectors.erasure_history import FOREVER, Call, explained
from tests.connectors.erasure_places import FAULTS, Client, Place, lacking
from tests.connectors.erasure_world import Killed, World

_ERRORS = (ConnectorError, IntegrityError, CapacityError)
_NAMES = ("a", "b")


class Model:
    """One run.

    Args:
        seed: Of all that is drawn.
        phases: How many.
        calls: Of each client in each phase.
        changes: Whether children come and go.
    """

    def __init__(self, seed: int, *, phases: int = 2, calls: int = 6, changes: bool = True, kills: bool = True) -> None:
        self.world = World(seed)
        draw = self.draw = self.world.random
        self.k, self.m = draw.choice([(1, 2), (2, 1), (2, 2), (3, 2), (1, 1)])
        count = self.k + self.m + draw.choice([0, 1, 2])
        self.phases, self.calls, self.changes, self.kills = phases, calls, changes, kills
        self.options = Options(k=self.k, m=self.m, small=64, segment=400, patience=5.0)
        far = draw.random() < 0.7
        self.place_far = far
        self.made = 0
        self.places = [self._place() for _ in range(count)]
        self.clients: list[Client] = []
        self.history: dict[str, list[Call]] = {}
        self.drawn: list[Key] = []
        """Those that clients know."""
        self.values: dict[bytes, str] = {}
        self.hurt: list[Place] = []
        self.leaving: Place | None = None
        self.joining: Place | None = None
        self.weak: set[str] = set()
        """Drawn ids of which a copy was left with who could not be reached: readable until a repair."""
        self.unknown = False
        """Whether a change was not answered."""
        self.over = False
        self.log: list[str] = []
        self._busy = 0

    def run(self) -> None:
        """All phases.

        Raises:
            AssertionError: Something that was promised does not hold.
        """
        logger = logging.getLogger("proxyfab.erasure")
        before, logger.disabled = logger.disabled, True
        try:
            self.world.run(self._main)
        finally:
            logger.disabled = before

    def _main(self) -> None:
        for number in range(self.phases):
            self._phase(number)

    def note(self, text: str) -> None:
        """For who looks for why."""
        self.log.append(f"{self.world.now:9.4f} {self.world.owner:8} {text}")

    # -- a phase -----------------------------------------------------------------------------------------------------

    def _phase(self, number: int) -> None:
        draw, world = self.draw, self.world
        most = min(self.m, (len(self.places) - 1) // 2)
        change = draw.choice(["", "", "drain", "add"]) if self.changes and most else ""
        self.hurt = draw.sample(self.places, draw.randrange(most + (change != "add")))
        self.over = False
        if change == "drain" and len(self.places) > self.k + self.m and most:
            self.leaving = draw.choice(self.places)
            if self.leaving not in self.hurt:
                self.hurt = [*self.hurt[: most - 1], self.leaving]
        elif change == "add":
            self.joining = self._place()
        self.note(f"phase k={self.k} m={self.m} of {len(self.places)} {change} hurt {[one.spec for one in self.hurt]}")
        clients = [self._opened(f"c{number}.{at}", self.places) for at in range(draw.choice([1, 2, 3]))]
        self._busy = len(clients) + 1
        self.clients = list(clients)
        for client in clients:
            world.spawn(lambda client=client: self._client(client), client.name)  # type: ignore[misc]
        world.spawn(self._faults, "faults")
        world.spawn(lambda: self._admin(number), f"admin{number}")
        while self._busy:
            world.sleep(1.0)
        self.over = True
        self._between()

    def _place(self) -> Place:
        self.made += 1
        one = Place(MemoryConnector(f"erasure-model-{self.made}"))
        one.child.clear()
        one.world, one.far = self.world, self.place_far
        return one

    def _faults(self) -> None:
        while not self.over:
            for place in self.hurt:
                mode = self.draw.choice(FAULTS)
                if mode == "empty":
                    place.child.clear()
                    mode = "well"
                place.mode = mode
                self.note(f"{place.spec} {mode}")
            self.world.sleep(self.draw.choice([0.0001, 0.001, 0.1, 1.0, 6.0]))

    # -- a client ----------------------------------------------------------------------------------------------------

    def _client(self, client: Client) -> None:
        left = self.calls
        while left:
            left -= 1
            owner = client.name
            if self.kills and self.draw.random() < 0.06:
                self.world.spawn(lambda owner=owner: self._kill(owner), "killer")  # type: ignore[misc]
            try:
                self._one(client)
                self.world.step()
                if self.draw.random() < 0.1:
                    self.world.sleep(self.draw.choice([0.01, 1.0, 12.0]))
            except Killed:
                if self.world.ended:
                    raise
                self.note("was killed")
                self.world.current.owner = owner + "'"
                self.clients.remove(client)
                client = self._opened(owner + "'", self.places)
                self.clients.append(client)
        self._busy -= 1

    def _opened(self, name: str, places: Sequence[Place]) -> Client:
        return Client(name, places, self.options, self.weak)

    def _kill(self, owner: str) -> None:
        for _ in range(self.draw.randrange(40)):
            self.world.step()
        self.world.kill(owner)

    def _one(self, client: Client) -> None:
        draw, one = self.draw, client.one
        named = draw.random() < 0.6
        if not named and (draw.random() < 0.35 or not self.drawn):
            return self._draw(client)
        if named:
            key = Key(draw.choice(_NAMES))
        else:
            key = draw.choice(self.drawn[-3:])
        kind = draw.choice(
            ["put", "put", "get", "get", "get", "evict", "swap", "fresh", "exists"]
            if named
            else ["get", "get", "evict", "exists", "stat"]
        )
        if kind == "put":
            self._change(client, "put", key, lambda new: bool(one.put(new, key=key, replace=True).id))
        elif kind == "fresh":
            self._change(client, "fresh", key, lambda new: _fresh(one, new, key))
        elif kind == "swap":
            old = self._find(one, key)
            if old is not False:
                self._change(client, "swap", key, lambda new: one.compare_and_set(key, old, new), old=self._said(old))
        elif kind == "evict":
            self._call("evict", key, lambda: one.evict(key))
        elif kind == "get":
            self._call("get", key, lambda: self._said(one.get(key)))
        elif kind == "stat":
            self._call("exists", key, lambda: one.stat(key) is not None)
        else:
            self._call("exists", key, lambda: one.exists(key))
        return None

    def _find(self, one: ErasureConnector, key: Key) -> Any:
        try:
            return one.get(key)
        except _ERRORS:
            return False

    def _draw(self, client: Client) -> None:
        value, new = self._content()
        begin = self.world.now
        try:
            key = client.one.put(new)
        except _ERRORS as error:
            self.note(f"put refused: {error}")
            self._excused(error)
            return
        self.note(f"drew {key.id[:6]} {value}")
        self.history[key.id] = [Call("put", begin, self.world.now, value, who=client.name)]
        self.drawn.append(key)

    def _content(self) -> tuple[str, Frames]:
        value = f"v{len(self.values)}"
        raw = value.encode().ljust(self.draw.choice([8, 8, 200, 200, 900]), b".")
        self.values[raw] = value
        return value, Frames([raw])

    def _said(self, found: Frames | None) -> str | None:
        return None if found is None else self.values.get(found.tobytes(), f"wrong: {found.tobytes()[:40]!r}")

    def _change(
        self, client: Client, op: str, key: Key, act: Callable[[Frames], object], old: str | None = None
    ) -> None:
        value, new = self._content()
        self._call(op, key, lambda: act(new), value=value, old=old)

    def _call(self, op: str, key: Key, act: Callable[[], object], **said: Any) -> None:
        """Do it, and write down what was asked and answered."""
        begin, who = self.world.now, self.world.owner
        calls = self.history.setdefault(key.id, [])
        asked = Call(op, begin, FOREVER, who=who, **said)
        self.note(f"{op} {key.id[:6]} {said}")
        try:
            answer = act()
        except Killed:
            calls += [asked] if op not in ("get", "exists") else []
            self.unknown = True
            raise
        except _ERRORS as error:
            self.note(f"{op} {key.id[:6]} failed: {error}")
            calls += [asked] if op not in ("get", "exists") else []
            self.unknown = True
            self._excused(error)
        else:
            self.note(f"{op} {key.id[:6]} {said} -> {answer}")
            if key.id not in self.weak or op not in ("get", "exists"):
                calls.append(asked._replace(end=self.world.now, answer=answer))

    def _excused(self, error: Exception) -> None:
        """A call may fail while a child is hurt."""
        excuse = self.hurt or self.leaving or self.joining or "all the time" in str(error)
        assert excuse, f"Nobody is hurt, and yet: {error!r}"

    # -- the administrator -------------------------------------------------------------------------------------------

    def _care(self, places: Sequence[Place]) -> Upkeep:
        one = self._opened("", places).one
        return Upkeep(one.scattering, one.registers)

    def _admin(self, number: int) -> None:
        owner = self.world.owner
        for what in self.draw.choices(["repair", "rebalance", "change", "wait"], k=3):
            if self.kills and self.draw.random() < 0.2:
                self.world.spawn(lambda owner=owner: self._kill(owner), "killer")  # type: ignore[misc]
            try:
                self.note(what)
                if what == "change":
                    self._member()
                elif what == "wait":
                    self.world.sleep(self.draw.choice([0.01, 1.0, 10.0]))
                elif what == "repair":
                    self._care(self.places).scrub(repair=True)
                elif self.leaving is None:
                    self._care(self.places).rebalance()
            except (*_ERRORS, ConfigurationError) as error:
                self.note(f"{what} failed: {error}")
                self._excused(error)
            except Killed:
                if self.world.ended:
                    raise
                owner += "'"
                self.world.current.owner = owner
        self._busy -= 1

    def _member(self) -> None:
        """Somebody comes or goes."""
        if self.leaving is not None and self.leaving in self.places:
            report = self._care(self.places).drain(self.places.index(self.leaving))
            self.note(f"{report}")
            if not report.failures:
                self.places = [one for one in self.places if one is not self.leaving]
                self.note(f"drained {self.leaving.spec}")
        elif self.joining is not None and self.joining not in self.places:
            self._care(self.places).settle(self.joining)
            more = [*self.places, self.joining]
            report = self._care(more).joined()
            self.places = more

    # -- between phases ----------------------------------------------------------------------------------------------

    def _between(self) -> None:
        world = self.world
        self.note("between")
        for place in [*self.places, *self.hurt]:
            place.mode = "well"
        world.sleep(60.0)  # what is under way comes in, what is owed is done, nobody rests
        for client in [one for one in self.clients if not world.is_dead(one.name)]:
            assert client.one.scattering.means.flush(60.0)
            assert client.one.mending.flush(60.0)
        self._member()
        assert self.leaving not in self.places
        reader = self._opened("reader", self.places)
        extra = min(self.m, (len(self.places) - 1) // 2) - len(self.hurt) - (self.joining is not None)
        others = [one for one in self.places if one not in self.hurt]
        self._read(reader)
        if self.unknown:  # what nobody was told of has to be repaired before it bears losses
            self._care(self.places).scrub(repair=True)
            self.unknown = False
        for place in self.draw.sample(others, max(extra, 0)):
            self.note(f"{place.spec} loses everything")
            place.child.clear()
        self._read(reader)
        if self.leaving is not None:
            self.leaving.child.clear()
        self.leaving = self.joining = None
        self.hurt = []
        assert reader.one.mending.flush(60.0)
        self._repaired(reader)
        self.weak.clear()
        self._read(reader)
        for key, calls in self.history.items():
            assert explained(calls), f"{key}: {calls}"

    def _read(self, reader: Client) -> None:
        """Everything, all of which has to answer."""
        before = self.hurt, self.leaving, self.joining
        self.hurt, self.leaving, self.joining = [], None, None
        for key in [*map(Key, _NAMES), *self.drawn]:
            self._call("get", key, lambda key=key: self._said(reader.one.get(key)))  # type: ignore[misc]
            self._call("exists", key, lambda key=key: reader.one.exists(key))  # type: ignore[misc]
        self.hurt, self.leaving, self.joining = before

    def _repaired(self, reader: Client) -> None:
        """Repaired, nothing lacks; and two hours later nothing is left that nobody means."""
        care = Upkeep(reader.one.scattering, reader.one.registers)
        first = care.scrub(repair=True)
        assert not first.failures, first
        second = care.scrub()
        assert not lacking(reader, second), (first, second)
        self.world.sleep(7200.0)
        third = second
        for _ in range(2):
            third = care.scrub(repair=True)
            assert reader.one.scattering.means.flush(60.0)
        assert not (lacking(reader, third) or third.strays), third
        self._left(reader)

    def _left(self, reader: Client) -> None:
        """Nothing but objects that are there, some of them drawn by who was killed before he knew the key."""
        scattering, registers = reader.one.scattering, reader.one.registers
        found = listed(scattering.means, 0)
        meant = [one for name in registered(scattering.means, found)[0] for one in locators(registers.read(name))]
        drawn = [scattering.find(held.id) for held in found.pieces.values() if held.kind == DRAWN]
        known = set[str]()
        for locator in [*meant, *(one for one in drawn if one is not None)]:
            known |= {piece.shape.name for piece in scattering.pieces(locator)}
        left = {held.name for held in found.pieces.values() if held.kind != DRAWN} - known
        assert not left, f"left behind: {left}"


def _fresh(one: ErasureConnector, new: Frames, key: Key) -> bool:
    try:
        one.put(new, key=key)
    except KeyExists:
        return False
    return True


def run(seed: int, **how: Any) -> Model:
    """One run, and what is to be said of it where it fails."""
    model = Model(seed, **how)
    try:
        model.run()
    except BaseException as error:
        error.add_note(f"seed {seed}, {how}")
        raise
    return model
