"""`erasure://?k=4&m=2&child=<url>...`: any m of the places that an object lies in may go, at (k + m) / k of its size.

What is drawn and what is named:
1. A drawn key holds a locator: which child has which shard, with digests. Reading asks just those children; there is
   no metadata anywhere else, and nobody to ask.
2. What a named or reserved key means is agreed on by most of the children (`scattering.registers`): a locator of
   content that is written once, under an id of its own (`scattering.names`).
3. A drawn key becomes a named one when its object is replaced or swapped; the drawn content is evicted then.

Promises:
1. Up to m children may be away, hang, be slow, or answer with broken or other objects' bytes: answers are right, and
   each of those is told of once. With more of them an operation ends with one error that says of each what is wrong.
2. With fewer children than k + m a put takes a narrower code, not a weaker one (`scattering.planning`).
3. `exists` never guesses. An evict that did not reach a child is made up for as soon as that is back.
4. Changes of named keys need most of the children; of several at once, wherever they are, one wins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from proxyfab.abc import (
    BaseConnector,
    Finding,
    Reclaimed,
    Stat,
    SupportsDiagnosis,
    SupportsScan,
    check_batch,
    check_range,
    check_swap,
    check_timeout,
    check_ttl,
)
from proxyfab.abilities import claiming, shared
from proxyfab.buffers import Frames
from proxyfab.connectors.erasure.options import Options, child_text, namespaces, parse
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.placement import Policy
from proxyfab.errors import ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.groups import wait_in_turn
from proxyfab.keys import Fresh, Key
from proxyfab.opening import open_connector
from proxyfab.osio.shared import default_root
from proxyfab.osio.turns import Turns, turns_at
from proxyfab.osio.warm import Warm
from proxyfab.race import Race
from proxyfab.scattering.listing import entries, merged
from proxyfab.scattering.means import nothing
from proxyfab.scattering.members import Members, Standing
from proxyfab.scattering.names import DRAWN, Names
from proxyfab.scattering.planning import Planner
from proxyfab.scattering.registers import Registers, key_of
from proxyfab.scattering.restoring import Mending
from proxyfab.scattering.roll import latest
from proxyfab.scattering.scattering import Scattering
from proxyfab.spec import ConnectorSpec, namespace_of

R = TypeVar("R")
T = TypeVar("T")
_RESERVED = "r"
"""The locator of a key that was made here for a put to come."""
_STEP = 0.25
"""Seconds after which who waits for a name looks at all children."""
_LOOK = 0.01
_AT_ONCE = 8
"""Objects of a batch that move at once."""
_memory = Warm()


class ErasureConnector(BaseConnector):
    """Several connectors, of which any m may be lost. Thread-safe and fork-safe as the children are.

    Args:
        children: Connectors, each another place; they are closed with this one.
        options: How objects are kept.
        standings: What is said of each child: sites, capacities, rates of failure.
        policy: A policy of placement that no URL can name; it does not travel.
    """

    scheme: ClassVar[str] = "erasure"
    plain: ClassVar[type[Any] | None] = None
    wait_bound = _STEP

    def __new__(cls, children: Sequence[Any], *_: Any, **__: Any) -> ErasureConnector:
        """An instance of a class that claims what all children have."""
        return super().__new__(claiming(cls.plain or cls, shared(children) | {SupportsDiagnosis}))

    def __init__(
        self,
        children: Sequence[Any],
        options: Options | None = None,
        *,
        standings: Sequence[Standing] | None = None,
        policy: Policy | None = None,
    ) -> None:
        if not children:
            raise ConfigurationError("erasure:// needs children: erasure://?k=2&m=1&child=file:///a&child=...")
        self.options = options or Options()
        self.children = list(children)
        how = self.options.checked(len(self.children))
        self.members = Members(self.children, standings)
        planner = Planner(
            self.members,
            how.k,
            how.m,
            small=how.small,
            quorum=how.quorum or None,
            policy=policy or how.made_policy(),
            target=how.target,
            retention=how.retention,
        )
        self.mending = Mending()
        self.scattering = Scattering(
            self.members,
            planner,
            segment=how.segment,
            patience=how.patience,
            hedge=how.hedge,
            kernel=how.kernel,
            memory=_memory.take,
            noticed=self.mending.noticed,
        )
        self.mending.scattering = self.scattering
        self.scattering.means.former = self._gone
        self.registers = Registers(self.scattering.means)
        self.names = Names(self.scattering, self.registers)
        self.checksums = any(child.checksums for child in self.children)  # type: ignore[misc]  # it is the children's
        self._policy = policy
        self._former: frozenset[bytes] = frozenset()
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> ErasureConnector:
        options, children = parse(url)
        texts = [child for child, _ in children]
        opened = [open_connector(text, name=one) for text, one in zip(texts, namespaces(name, texts), strict=True)]
        return cls(opened, options, standings=[said for _, said in children])

    @property
    def spec(self) -> str:
        children = [("child", child_text(member.spec, member.standing)) for member in self.members.all]
        return str(ConnectorSpec("erasure", options=(*self.options.text(), *children)))

    @property
    def place(self) -> str:
        return str(self.children[0].place)

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return all(child.local for child in self.children)

    def __reduce__(self) -> tuple[Any, ...]:
        said = [member.standing for member in self.members.all]
        return _rebuild, (self.plain or type(self), self.children, self.options, said, self._policy)

    # -- one object ----------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw(_RESERVED)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        self._use()
        if key is None or (type(key) is Fresh and key.where in ("", _RESERVED) and DRAWN.fullmatch(key.id)):
            id = os.urandom(16) if key is None else bytes.fromhex(key.id)
            return Key(id.hex(), str(self.scattering.put(frames, id, ttl=ttl)))
        drawn = self._drawn(key)
        with self._turn(key.id):
            self.names.put(frames, key, drawn, ttl, replace)
        return key.plain()

    def get(self, key: Key) -> Frames | None:
        return self._look(key, self.scattering.get)

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        return self._look(key, lambda locator: self.scattering.get_range(locator, offset, length))

    def exists(self, key: Key) -> bool:
        return self._look(key, lambda locator: self.scattering.there(locator) or None) is not None

    def stat(self, key: Key) -> Stat | None:
        found = self._look(key, self.scattering.state)
        return None if found is None else found._replace(key=key.plain(), namespace=namespace_of(self.spec))

    def evict(self, key: Key) -> bool:
        self._use()
        drawn = self._drawn(key)
        there = drawn is not None and self.scattering.drop(drawn)
        if self.names.meaning(key):
            with self._turn(key.id):
                there |= self.names.evict(key)
        elif drawn is None and not there:
            found = self.names.drawn(key)
            there = found is not None and self.scattering.drop(found)
        return there

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        self._use()
        drawn = self._drawn(key)
        return (drawn is not None and self.scattering.renew(drawn, ttl)) or self.names.renew(key, ttl)

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        check_ttl(ttl)
        self._use()
        drawn = self._drawn(key)
        with self._turn(key.id):
            return self.names.swap(key, drawn, old, new, ttl)

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        check_timeout(timeout)
        self._use()
        return wait_in_turn(lambda: self._there(keys), [self._turned(keys)] if keys else [], timeout, _STEP)

    def _there(self, keys: Sequence[Key]) -> list[Key]:
        return [key for key, there in zip(keys, self.exists_many(keys), strict=True) if there]

    def _turned(self, keys: Sequence[Key]) -> Callable[[float], object]:
        """Waits at a child for the record of a name that means nothing yet; what had one before is looked at often."""
        records = [key_of(key.id) for key in keys]

        def turn(seconds: float) -> None:
            number = next((at for at, one in enumerate(self.members.all) if not one.resting), 0)
            try:
                call: Callable[[Any], list[bool]] = lambda child: list(child.exists_many(records))  # noqa: E731
                if not any(self.members.timed(number, "exists", call, 0)()):
                    wait: Callable[[Any], list[Key]] = lambda child: list(child.wait_any(records, seconds))  # noqa: E731
                    self.members.timed(number, "wait", wait, 0)()
                    return
            except ProxyfabError:
                pass
            time.sleep(min(seconds, _LOOK))

        return turn

    # -- many ----------------------------------------------------------------------------------------------------

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
        if keys is not None and len(set(keys)) < len(keys):
            return super().put_many(many, keys=keys, ttl=ttl, replace=replace)
        pairs = list(zip(many, keys if keys is not None else [None] * len(many), strict=True))
        return self._side_by_side(lambda one: self.put(one[0], key=one[1], ttl=ttl, replace=replace), pairs)

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return self._side_by_side(self.get, keys)

    def exists_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._side_by_side(self.exists, keys)

    def evict_many(self, keys: Sequence[Key]) -> list[bool]:
        return self._side_by_side(self.evict, keys) if len(set(keys)) == len(keys) else super().evict_many(keys)

    def _side_by_side(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The work on each item, some at once where children are far."""
        self._use()
        return list(self.scattering.each(work, items, _AT_ONCE)) if len(items) > 1 else [work(one) for one in items]

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        self._use()
        most = self.scattering.planner.m
        space = namespace_of(self.spec)
        for entry in entries(self.scattering.means, self.registers, most):
            yield entry.stat._replace(namespace=space)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        return merged(self._everywhere("reap", lambda child: child.reap(dry_run=dry_run)))

    def clear(self) -> int:
        self._use()
        scans = SupportsScan in shared(self.children)
        listed = len(list(self.scan())) if scans else None
        cleared = self._everywhere("clear", lambda child: int(child.clear()))
        return max(cleared, default=0) if listed is None else listed

    def _everywhere(self, what: str, call: Callable[[Any], T]) -> list[T]:
        """What each child says; m of them may be away, and are told of."""
        self._use()
        means = self.scattering.means
        race: Race[T] = Race()
        try:
            for number in range(len(self.members)):
                means.ask(race, number, number, what, call, 0)
            answers = means.answers(race, nothing)
        finally:
            race.close()
        away = [one for one in answers if one.error is not None]
        if len(away) > self.scattering.planner.m:
            raise ConnectorError(f"{what} failed at {len(away)} of {len(self.members)} children: {means.whys(away)}.")
        for one in away:
            self.members[one.child].warn(f"{what} did not reach a child", one.error or "")
        done = {one.child: one.value for one in answers if one.value is not None}
        return [done[number] for number in sorted(done)]

    def diagnose(self) -> Iterator[Finding]:
        for member in self.members.all:
            bad = f"{member.failures} failures in a row, the last: {member.error}"
            yield Finding(
                f"child {member.spec}", "warn" if member.failures else "ok", bad if member.failures else "well"
            )
            if isinstance(member.child, SupportsDiagnosis):
                yield from member.child.diagnose()

    def close(self) -> None:
        self._closed = True
        self.__dict__.pop("_turns", None)  # its file is closed when nobody has it
        self.mending.close()
        self.scattering.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _use(self) -> None:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")

    def _drawn(self, key: Key) -> Locator | None:
        """What a drawn key says; None of another one."""
        if key.where in ("", _RESERVED):
            return None
        try:
            locator = Locator.parse(key.where)
        except ConfigurationError:
            locator = None
        if locator is None or locator.shape.id.hex() != key.id or not self._ours(locator):
            raise ConnectorError(f"{key} does not lie in {self.spec}; ask the store that its reference names.")
        return locator

    def _ours(self, locator: Locator) -> bool:
        """Whether a member has a shard of it, or one that was drained had: then others have it."""
        labels = {lying.child for lying in locator.shards}
        if not labels.isdisjoint(self.members.by_label):
            return True
        return not (labels.isdisjoint(self._former) and labels.isdisjoint(self._gone()))

    def _gone(self) -> frozenset[bytes]:
        """Labels of children that were drained or struck off."""
        found = latest(self.scattering.means)
        self._former = self._former if found is None else found.former
        return self._former

    def _look(self, key: Key, look: Callable[[Locator], R | None]) -> R | None:
        self._use()
        return self.names.look(key, self._drawn(key), look)

    def _turn(self, id: str) -> AbstractContextManager[None]:
        """Nobody else on this machine changes what a key means meanwhile: it would only take both longer."""
        return self._turns.take(f"erasure {self.members[0].spec} {id}")

    @cached_property
    def _turns(self) -> Turns:
        return turns_at(default_root())


def _rebuild(kind: Any, children: Any, options: Options, standings: Any, policy: Policy | None) -> ErasureConnector:
    return kind(children, options, standings=standings, policy=policy)  # type: ignore[no-any-return]
