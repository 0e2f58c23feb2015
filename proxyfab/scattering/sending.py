"""Sending: the shards of one piece of an object to members, each to one of its own.

Rules:
1. A member that fails, or does not answer in time, is replaced by a spare one while there is one. Once the quorum is
   stored the others have a little time left.
2. Short of the quorum it is planned again for those who did not fail, once (`planning`, rule 2). Short of that, what
   was stored is evicted, and the error says of each member why.
3. What nobody has a locator for is evicted in the background as soon as its member can be reached: also after an
   interrupt, and what comes too late. A shard of a piece that was stored stays where it came to lie too late, and goes
   with the piece: who evicted it later might evict what a repair, anywhere, has put there meanwhile. But if the piece
   is gone by then, an evict has passed by before, and the shard goes.
4. Of a large piece data are on their way while parity is computed, and each shard's digest is in the thread that sends
   it: moving, coding and hashing do not wait for one another.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator, Lying
from proxyfab.erasure.shard import HEADER, Shape, digest_of, packed
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError
from proxyfab.keys import Fresh, Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.means import Means
from proxyfab.scattering.planning import Plan, Planner

_SPLIT = 1 << 17
"""Bytes of a shard from which on data are sent before there is parity."""
_LEAST = 3.0
"""Seconds that a put waits at least for shards beyond the quorum: without one an object bears a loss less."""


class _Put(NamedTuple):
    """A piece on its way out."""

    shape: Shape
    contents: dict[int, Frames]
    """By number of the shard; parity is added."""
    shards: dict[int, tuple[Frames, bytes]]
    """By number: as it is stored, and the digest of its content, once somebody wanted it."""
    ttl: float | None
    replace: bool
    landed: dict[int, tuple[int, Key]]
    """By number of the shard: the member that has it, and its key there."""
    tried: list[tuple[int, Key]]
    """What members were asked to store, and may have."""
    failures: list[Answer[Key]]


class Sending:
    """Puts pieces. Thread-safe and fork-safe as the members are."""

    def __init__(self, means: Means, planner: Planner) -> None:
        self._means = means
        self._planner = planner

    def send(self, frames: Frames, shape: Shape, ttl: float | None) -> Locator:
        """Store a piece of which `shape` says all but the code.

        Raises:
            CapacityError: Too few members have room.
            ConnectorError: Too few shards could be stored.
        """
        tried: list[tuple[int, Key]] = []
        failures: list[Answer[Key]] = []
        kept: set[int] = set()
        put: _Put | None = None
        race: Race[Key] = Race(late=lambda answer: self._late(answer, kept, put))
        try:
            put = self._try(race, frames, shape, ttl, tried, failures)
            # Planned again, it has shards of another code where it was sent first.
            kept.update([member for member, _ in (put.landed.values() if put.replace else tried)])
        finally:
            race.close()
            if len(kept) < len({member for member, _ in tried}):
                self._means.owe([(member, key) for member, key in tried if member not in kept])
        for failure in failures:
            what = f"A shard of {shape.id.hex()} was not stored"
            self._means.members[failure.child].warn(what, failure.error or "")
        return self._located(put)

    def _try(
        self,
        race: Race[Key],
        frames: Frames,
        shape: Shape,
        ttl: float | None,
        tried: list[tuple[int, Key]],
        failures: list[Answer[Key]],
    ) -> _Put:
        again = False
        while True:
            failed = {one.child for one in failures}
            try:
                plan = self._planner.of(shape.size, shape.id, tuple(failed), copies=bool(shape.total))
            except ConnectorError as error:
                raise self._refused(str(error), failures) from None
            coded = shape._replace(k=plan.k, m=plan.m)
            put = _Put(coded, self._cut(coded, frames), {}, ttl, again, {}, tried, failures)
            self._land(race, put, plan)
            if len(put.landed) >= plan.quorum:
                return put
            if again:
                break
            again = True
        text = f"of {plan.k + plan.m} shards only {len(put.landed)} could be stored, and {plan.quorum} are needed"
        raise self._refused(text, failures)

    def _cut(self, shape: Shape, frames: Frames) -> dict[int, Frames]:
        """What shards hold: all of them, or those of data while they are large."""
        m = shape.m if shape.length < _SPLIT else 0
        return dict(enumerate(self._means.code(shape.k, m).encode(frames)))

    def _add_parity(self, put: _Put) -> None:
        shape = put.shape
        wanted = [number for number in range(shape.k, shape.k + shape.m) if number not in put.contents]
        made = self._means.code(shape.k, shape.m).rebuild(put.contents, shape.size, wanted) if wanted else []
        put.contents.update(zip(wanted, made, strict=True))

    def _packed(self, put: _Put, number: int) -> tuple[Frames, bytes]:
        found = put.shards.get(number)
        if found is None:
            found = put.shards[number] = packed(put.shape, number, put.contents[number])
        return found

    def _land(self, race: Race[Key], put: _Put, plan: Plan) -> None:
        """Send each shard to a member of its own, and to a spare one where that fails."""
        order = list(plan.order)
        for number in range(plan.k + plan.m):
            if number == plan.k:
                self._add_parity(put)
            self._send(race, put, order.pop(0), number)
        began = time.monotonic()
        until = began + self._means.patience
        while race.pending:
            if len(put.landed) >= plan.quorum:
                until = min(until, self._means.soon(began, _LEAST))
            answer = race.next(until - time.monotonic())
            for one in race.give_up() if answer is None else [answer]:
                if one.value is not None:
                    put.landed[one.number] = (one.child, one.value)
                    continue
                put.failures.append(one)
                if answer is None and one.error is not None:
                    self._means.members[one.child].ill(one.error)
                if order:
                    self._send(race, put, order.pop(0), one.number)
                    until = time.monotonic() + self._means.patience

    def _send(self, race: Race[Key], put: _Put, member: int, number: int) -> None:
        def send(child: object) -> Key:
            shard = self._packed(put, number)[0]
            drawn = Key(put.shape.name, child.reserve().where)  # type: ignore[attr-defined]  # it is a connector
            put.tried.append((member, drawn))  # first: the answer may be lost
            key = drawn if put.replace else Fresh.of(drawn)
            done: Key = child.put(shard, key=key, ttl=put.ttl, replace=put.replace)  # type: ignore[attr-defined]  # so
            return done.plain()

        self._means.ask(race, member, number, "put", send, HEADER + put.shape.length)

    def _located(self, put: _Put) -> Locator:
        lying = []
        digests = [self._packed(put, number)[1] for number in range(put.shape.k + put.shape.m)]
        for number, digest in enumerate(digests):
            member, key = put.landed.get(number, (-1, None))
            label = self._means.members[member].label if key is not None else b""
            lying.append(Lying(label, key.where if key is not None else "", digest))
        whole = digest_of(put.shape.digest, Frames(digests))
        return Locator(put.shape, whole, tuple(lying))

    def _refused(self, text: str, failures: list[Answer[Key]]) -> ProxyfabError:
        resting = [
            f"{member.spec}: {member.error}"
            for number, member in enumerate(self._means.members.all)
            if member.error and number not in {one.child for one in failures}
        ]
        whys = "; ".join(dict.fromkeys([*map(self._means.why, failures), *resting])) or "all others are being drained"
        others = [one for one in failures if not isinstance(one.error, CapacityError)]
        full = len(others) < len(failures) and len(others) <= self._planner.m
        said = f"It cannot be stored: {text}: {whys}. What was stored is taken back."
        return CapacityError(said) if full else ConnectorError(said)

    def _late(self, answer: Answer[Key], kept: set[int], put: _Put | None) -> None:
        """A shard that came to lie somewhere when nobody waited for it any more."""
        if answer.value is None:
            return
        if answer.child not in kept or put is None:
            self._means.owe([(answer.child, answer.value)])
        elif answer.child not in {member for member, _ in put.landed.values()}:
            self._means.look_later(put.shape, answer.child, answer.value)
