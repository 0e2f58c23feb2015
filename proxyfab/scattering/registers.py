"""Registers: what a name means, agreed on by most of the members, without any server of ours.

Each member keeps one small record a name and changes it only by compare-and-set; a record is an acceptor of CASPaxos
(D. Rystsov, arXiv 1802.07000), and who changes a register proposes: it reads, has its ballot promised, and has the new
value accepted, each by a majority of all members.

Rules:
1. A value is what a majority accepted under one ballot. Who reads another picture completes it before he believes it.
2. A change is a function of the value before it, and happens once: each value carries the marks of the changes that
   led to it, so that who lost sight of his own finds it again.
3. Ballots begin with the time, so that what members forget of absent values after an hour harms nobody whose clock is
   less than that wrong.
4. Members may be added or taken away one at a time, with a `refresh` of every name in between. Who is so far behind
   that most of his members may be none of most of theirs changes nothing (`roll.follows`, looked at once a minute).
5. That a name means nothing any more is kept for an hour by members that all know it, and for thirty days where one
   was away: he still says what was before. Who was away for longer is to be emptied before he comes back.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import crc32

from proxyfab.abc import SupportsCompareAndSet
from proxyfab.buffers import Frames
from proxyfab.errors import CapabilityError, CapacityError, ConfigurationError, ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.means import Means
from proxyfab.scattering.roll import follows

SUFFIX = ".r"
"""What records are called behind the digest of their register's name."""
_MAGIC = b"PFRG"
_HEAD = struct.Struct("<4sBQ8sQ8sdHH")
_CHECK = struct.Struct("<I")
_VERSION = 1
_MARK = 8
_MARKS = 64
_FORGET = 3600.0
_AWAY = 30 * 24 * 3600.0
_SLOWEST = 0.05
_FOLLOW = 60.0
"""Seconds after which who changes names looks whether the members are still those on the roll."""
_LAST = 1 << 63
"""The last ballot's number, centuries from now: behind one that a broken member made up there would be no other."""

Ballot = tuple[int, bytes]
_NO_BALLOT: Ballot = (0, bytes(8))


class Record(NamedTuple):
    """What a member says of a register."""

    name: str
    promised: Ballot = _NO_BALLOT
    accepted: Ballot = _NO_BALLOT
    value: bytes = b""
    """Nothing where nothing is meant."""
    expires: float = 0.0
    """Seconds since the epoch, after which nobody needs it; 0 for never."""
    marks: tuple[bytes, ...] = ()

    def pack(self) -> Frames:
        """As it is stored."""
        name = self.name.encode("utf-8", "surrogatepass")
        ballots = (*self.promised, *self.accepted)
        head = _HEAD.pack(_MAGIC, _VERSION, *ballots, self.expires, len(name), len(self.marks))
        raw = b"".join((head, name, *self.marks, self.value))
        return Frames([raw + _CHECK.pack(crc32(raw))])

    def ttl(self, known: bool) -> float | None:
        """Seconds that a member must keep it, where all members know it, or where one may not."""
        least = _FORGET if known or self.accepted == _NO_BALLOT else _AWAY
        if not self.value:
            return least
        return max(self.expires - time.time(), 0.0) + least if self.expires else None


def unpack(stored: Frames) -> Record:
    """The inverse of `Record.pack`.

    Raises:
        IntegrityError: It is no record, or damaged.
    """
    raw = stored.tobytes()
    body, check = raw[: -_CHECK.size], raw[-_CHECK.size :]
    if len(raw) < _HEAD.size + _CHECK.size or raw[:4] != _MAGIC or _CHECK.pack(crc32(body)) != check:
        raise IntegrityError("What lies where a register's record should is none, or damaged.")
    _, version, promised, by, accepted, of, expires, length, count = _HEAD.unpack_from(body)
    at = _HEAD.size + length + count * _MARK
    if max(promised, accepted) > _LAST:
        raise IntegrityError("A register's record has a ballot of times to come.")
    if version != _VERSION or at > len(body):
        raise IntegrityError(
            f"A register's record has the form {version}, and this proxyfab reads {_VERSION}; upgrade."
        )
    marks = body[_HEAD.size + length : at]
    return Record(
        body[_HEAD.size : _HEAD.size + length].decode("utf-8", "surrogatepass"),
        (promised, by),
        (accepted, of),
        body[at:],
        expires,
        tuple(marks[low : low + _MARK] for low in range(0, len(marks), _MARK)),
    )


def key_of(name: str) -> Key:
    """What the record of a register is called by every member."""
    return Key(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() + SUFFIX)


class Attempt:
    """One change: what came of it, and whether it may come to hold although it was interrupted.

    Attributes:
        before: The value that it changed, or would have.
        done: Whether it changed it.
        begun: Whether others may see it by now.
    """

    def __init__(self) -> None:
        self.before = b""
        self.done = False
        self.begun = False


_Seen = dict[int, tuple[Frames | None, Record]]
"""By member: what lies there, and what it says."""


class Registers:
    """Reads and changes what names mean. Thread-safe and fork-safe as the members are.

    Args:
        means: Shared with the scattering of these members.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._able = False
        self._looked = float("-inf")

    @property
    def able(self) -> bool:
        """Whether names can mean anything here."""
        return self._able or all(isinstance(one.child, SupportsCompareAndSet) for one in self._means.members.all)

    @property
    def majority(self) -> int:
        """Members that must agree."""
        return len(self._means.members) // 2 + 1

    def read(self, name: str) -> bytes:
        """What a name means; nothing where it means nothing.

        Raises:
            ConnectorError: Too few members answer to tell.
        """
        agreed = self._look(name, quick=True)[1]
        if agreed is None:
            return self._change(name, lambda _: None, None, Attempt()).before
        return agreed.value

    def refresh(self, name: str) -> None:
        """Have every member that can be reached keep what a name means, also that it means nothing any more."""
        seen, agreed = self._look(name)
        if agreed is None or any(self._differs(record, agreed) for _, record in seen.values()):
            self._change(name, lambda value: value, None, Attempt())

    def change(
        self,
        name: str,
        decide: Callable[[bytes], bytes | None],
        *,
        expires: float | None = None,
        attempt: Attempt | None = None,
    ) -> Attempt:
        """Change what a name means.

        Args:
            name: Any text.
            decide: From what it means to what it is to mean (nothing: `b""`), or None to leave it; may be asked often.
            expires: When what it will mean is over: 0 for never, None for as it is.
            attempt: Told how far it came, for who is interrupted.

        Raises:
            ConnectorError: Too few members answer; it may hold all the same if it has begun.
            ConfigurationError: Members were added or drained since, so that the others may not see it.
        """
        return self._change(name, decide, expires, attempt or Attempt(), self._follow)

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked < _FOLLOW:
            return
        if not follows(self._means):
            raise ConfigurationError(
                "The URL's children are not those that belong together by now: what is changed with it others may not "
                "see. Use the URL that the last `proxyfab erasure add` printed, without those that were drained; if "
                "children are lost, run `proxyfab erasure repair` with this one first."
            )
        self._looked = now

    def _change(
        self,
        name: str,
        decide: Callable[[bytes], bytes | None],
        expires: float | None,
        attempt: Attempt,
        check: Callable[[], None] = lambda: None,
    ) -> Attempt:
        mark = os.urandom(_MARK)
        ends = time.monotonic() + self._means.patience
        pause = 0.0005
        while True:
            if self._propose(name, decide, expires, mark, attempt, check):
                return attempt
            if time.monotonic() > ends:
                raise ConnectorError(f"{name} is changed by others all the time; try again.")
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _SLOWEST)

    def _propose(
        self,
        name: str,
        decide: Callable[[bytes], bytes | None],
        expires: float | None,
        mark: bytes,
        attempt: Attempt,
        check: Callable[[], None],
    ) -> bool:
        seen, _ = self._look(name)
        check()  # now that most answer
        highest = max(max(record.promised[0], record.accepted[0]) for _, record in seen.values())
        ballot = (max(highest + 1, time.time_ns()), os.urandom(8))
        promised = self._write(name, {at: (raw, one._replace(promised=ballot)) for at, (raw, one) in seen.items()})
        if len(promised) < self.majority:
            return False
        now = max((record for _, record in promised.values()), key=lambda record: record.accepted)
        mine = mark in now.marks
        new = None if mine else decide(now.value)
        attempt.before = attempt.before if mine else now.value
        attempt.done = mine or new is not None
        if new is None and not mine and not attempt.begun and self._agreed(promised, now):
            return True
        if new is not None:
            attempt.begun = True
            ends = now.expires if expires is None else expires
            now = now._replace(value=new, expires=ends, marks=(*now.marks[1 - _MARKS :], mark))
        now = now._replace(promised=ballot, accepted=ballot)
        accepted = self._write(name, {at: (raw, now) for at, (raw, _) in promised.items()})
        if len(accepted) < self.majority:
            return False
        attempt.begun = attempt.done  # what was begun under another ballot can hold no more
        return True

    def _differs(self, record: Record, agreed: Record) -> bool:
        return record.accepted != agreed.accepted and bool(record.value or agreed.value)

    def _agreed(self, seen: _Seen, newest: Record) -> bool:
        """Whether a majority accepted the newest."""
        return sum(record.accepted == newest.accepted for _, record in seen.values()) >= self.majority

    def _look(self, name: str, *, quick: bool = False) -> tuple[_Seen, Record | None]:
        """What members say, of a majority at least; and the record that a majority has accepted, if that is seen."""
        self._check()
        key, seen = key_of(name), _Seen()

        answers: list[Answer[Frames | None]] = []

        def enough(found: list[Answer[Frames | None]]) -> bool:
            seen.clear()
            for one in answers + found:
                record = self._said(name, one)
                if record is not None:
                    seen[one.child] = one.value, record
            return len(seen) >= self.majority and (not quick or self._newest_agreed(seen) is not None)

        for asked in self._asked():
            if len(seen) < self.majority:
                answers.extend(self._answers(key, asked, enough, quick=quick))
                enough([])
        if len(seen) < self.majority:
            failed = self._means.whys(answers)
            count = len(self._means.members)
            text = f"{len(seen)} of {count} children answer, and {self.majority} are needed"
            raise ConnectorError(f"What {name!r} means cannot be told: only {text}: {failed}.")
        return dict(seen), self._newest_agreed(seen)

    def _answers(
        self, key: Key, asked: list[int], enough: Callable[[list[Answer[Frames | None]]], bool], *, quick: bool
    ) -> list[Answer[Frames | None]]:
        race: Race[Frames | None] = Race()
        try:
            for member in asked:
                self._means.ask(race, member, member, "register", lambda child: child.get(key))
            return self._means.answers(race, enough, all=not quick)
        finally:
            race.close()

    def _asked(self) -> tuple[list[int], list[int]]:
        """Who is asked: those that do well, and if they are not enough the others."""
        everybody = range(len(self._means.members))
        resting = [member for member in everybody if self._means.members[member].resting]
        return [member for member in everybody if member not in resting], resting

    def _newest_agreed(self, seen: _Seen) -> Record | None:
        newest = max((record for _, record in seen.values()), key=lambda record: record.accepted)
        return newest if self._agreed(seen, newest) else None

    def _said(self, name: str, answer: Answer[Frames | None]) -> Record | None:
        if answer.error is not None:
            self._means.members[answer.child].warn("A register was not read", answer.error)
            return None
        if answer.value is None:
            return Record(name)
        try:
            return unpack(answer.value)
        except IntegrityError as error:
            self._means.members[answer.child].warn(f"The register of {name!r} was not read", error)
            return None

    def _write(self, name: str, wanted: _Seen) -> _Seen:
        """Those members that took what they were to keep in place of what they had, and that."""
        key = key_of(name)
        new = {member: record.pack() for member, (_, record) in wanted.items()}
        known = len(wanted) == len(self._means.members)
        race: Race[bool] = Race()
        try:
            for member, (old, record) in wanted.items():
                call = partial(_swap, key, old, new[member], record.ttl(known))
                self._means.ask(race, member, member, "swap", call, 0)
            answers = self._means.answers(race, self._taken, all=True)
        finally:
            race.close()
        failed = [one for one in answers if one.error is not None]
        if len(self._means.members) - len(failed) < self.majority:
            full = any(isinstance(one.error, CapacityError) for one in failed)
            kind = CapacityError if full else ConnectorError
            raise kind(f"What {name!r} means cannot be changed: {self._means.whys(failed)}.")
        return {one.child: (new[one.child], wanted[one.child][1]) for one in answers if one.value is True}

    def _taken(self, found: list[Answer[bool]]) -> bool:
        return sum(one.value is True for one in found) >= self.majority

    def _check(self) -> None:
        if self._able:
            return
        for member in self._means.members.all:
            if not isinstance(member.child, SupportsCompareAndSet):
                text = "cannot compare and set, which named keys in erasure:// need of every child; let keys be drawn"
                raise CapabilityError(f"{member.spec} {text}.")
        self._able = True


def _swap(key: Key, old: Frames | None, new: Frames, ttl: float | None, child: Any) -> bool:
    return bool(child.compare_and_set(key, old, new, ttl=ttl))
