"""Members: the connectors that keep shards, and what is known of each: how it does, how quick it is, where it stands.

Rules:
1. A member that has failed three times in a row is *resting*: for ten seconds others are asked before it, then one call
   tries it. It is a matter of order only: what nobody else can answer it is asked all the same.
2. Each kind of fault of a member is told once, as a warning, until it has answered well again, and once a minute at
   most; broken shards of many objects are one fault, and how many there were is said with the next warning.
3. Times are those of single answers, late ones included, by size; so what 'slow' means is learned, not configured.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from proxyfab.erasure.locator import LABEL
from proxyfab.erasure.placement import Node
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, ProxyfabError, ResolveTimeout
from proxyfab.fork import on_fork
from proxyfab.routing import size_class

T = TypeVar("T")
_log = logging.getLogger("proxyfab.erasure")
FAILURES = 3
"""In a row, after which a member rests."""
STUCK = 16
"""Calls under way from which on one that answers none of them for a second is not asked: each has a thread."""
REST = 10.0
"""Seconds after which a resting member is tried again."""
_FAULTS = (ConnectorError, ResolveTimeout, AccessDenied)
_WEIGHT = 0.2
_ENOUGH, _KEPT = 16, 256
_TELL = 60.0
_MB = 1e6


class Standing(NamedTuple):
    """What an administrator says of a member, for policies of placement. Rates are a year; bandwidths are measured."""

    site: str = ""
    """What fails together with others of the same name."""
    capacity: float = 0.0
    """Bytes that it may hold; 0 for what it says itself, and without limit if it does not say."""
    afr: float = 0.01
    """Failures a year that lose what it holds."""
    site_afr: float = 0.0
    """Failures a year of its whole site."""


class Member:
    """One connector. Fork-safe; its counters may be a little off where threads meet.

    Args:
        child: The connector.
        standing: What is said of it.

    Attributes:
        label: What stands for it in a key.
        failures: Failed calls since the last good one.
        error: The last failure's text.
    """

    def __init__(self, child: Any, standing: Standing, now: Callable[[], float]) -> None:
        self.child = child
        self.standing = standing
        self.spec = str(child.spec)
        self.label = label_of(child)
        self.calls = 0
        self.failed = 0
        self.failures = 0
        self.error = ""
        self.leaving = False
        """Whether nothing new is put there."""
        self.under_way = 0
        """Calls that have not answered yet."""
        self._answered = self._since = self._asked = now()
        self._now = now
        self._tried = float("-inf")
        self._told: dict[str, tuple[float, int]] = {}
        self._seconds: dict[tuple[str, int], float] = {}

    @property
    def resting(self) -> bool:
        """Whether others should be asked before it."""
        return self.failures >= FAILURES and self._now() - self._tried < REST

    @property
    def stuck(self) -> bool:
        """Whether it has so many calls that do not answer that it is not given another one."""
        return self.under_way >= STUCK and self._now() - self._answered > 1.0

    @property
    def silent(self) -> float:
        """Seconds for which it has answered nothing although it was asked."""
        return self._now() - max(self._answered, self._since) if self.under_way else 0.0

    def hangs(self, least: float) -> bool:
        """Whether it is silent for so long that others should be asked before it; one call tries it now and then."""
        return self.silent > least and self._now() - self._asked < REST

    @property
    def may_hang(self) -> bool:
        """Whether a call may take long: its bytes leave memory, or this machine."""
        return bool(self.child.checksums or not self.child.local)

    def well(self, what: str, nbytes: int, seconds: float) -> None:
        """It has answered."""
        self.calls += 1
        self._answered = self._now()
        if self.failures:
            self.failures, self.error = 0, ""
        key = what, size_class(nbytes)
        known = self._seconds.get(key)
        self._seconds[key] = seconds if known is None else known + _WEIGHT * (seconds - known)

    def ill(self, error: BaseException) -> None:
        """It has failed, or did not answer."""
        self.calls += 1
        self.failed += 1
        if isinstance(error, _FAULTS):
            self.failures += 1
            self._tried = self._now()
            self.error = str(error)

    def warn(self, what: str, error: BaseException | str) -> None:
        """Tell of a fault, unless one of its kind was told (rule 2)."""
        fault = type(error).__name__
        told, more = self._told.get(fault, (float("-inf"), 0))
        if self._now() - told < _TELL or self._answered < told:
            self._told[fault] = told, more + 1
            return
        self._told[fault] = self._now(), 0
        _log.warning("%s: %s: %s%s", what, self.spec, error, f" ({more} more since the last warning)" if more else "")

    def seconds(self, what: str, nbytes: int) -> float | None:
        """What an answer takes on average; None before the first."""
        return self._seconds.get((what, size_class(nbytes)))

    def bandwidth(self, what: str) -> float:
        """MB/s of the largest objects that moved so far; 100 before the first."""
        found = max(
            ((size, seconds) for (op, size), seconds in list(self._seconds.items()) if op == what), default=None
        )
        return 100.0 if found is None else max(4.0 ** found[0] / _MB / max(found[1], 1e-9), 1e-6)

    def node(self, number: int) -> Node:
        """What a policy of placement sees of it; asks the connector what it holds."""
        used, limit = 0, self.standing.capacity
        try:
            said = self.child.status() if hasattr(self.child, "status") and self.child.status else None
        except (ProxyfabError, TypeError):
            said = None
        if said is not None:
            used, limit = said.nbytes, limit or said.limit or 0.0
        site = self.standing.site or None
        return Node(
            str(number),
            capacity=max((limit or 1e18) / _MB, used / _MB),
            used=used / _MB,
            write_bandwidth=self.bandwidth("put"),
            read_bandwidth=self.bandwidth("get"),
            annual_failure_rate=self.standing.afr,
            site=site,
            annual_site_failure_rate=self.standing.site_afr if site else 0.0,
            up=not (self.resting or self.leaving),
        )


def label_of(child: Any) -> bytes:
    """What stands for a connector in a key."""
    return blake2b(str(child.spec).encode(), digest_size=LABEL).digest()


class Pace:
    """How long single answers take, by size: when one is late, and how many more may be asked for that.

    Args:
        first: Seconds after which an answer is late before enough of them were seen.
        share: Of all answers, the share that may be asked for once more; a general slowness makes no storm of it.
    """

    def __init__(self, first: float, share: float = 0.12) -> None:
        self.first = first
        self._share = share
        self._tokens = 2.0
        self._seen: dict[int, deque[float]] = {}
        self._late: dict[int, tuple[int, float]] = {}
        self._count = 0

    def add(self, nbytes: int, seconds: float) -> None:
        """An answer."""
        kind = size_class(nbytes)
        seen = self._seen.get(kind)
        if seen is None:
            seen = self._seen[kind] = deque(maxlen=_KEPT)
        seen.append(seconds)
        self._count += 1
        self._tokens = min(self._tokens + self._share, 8.0)

    def late(self, nbytes: int) -> float:
        """Seconds after which an answer of this size is late: nine of ten came sooner."""
        kind = size_class(nbytes)
        seen = self._seen.get(kind)
        if seen is None or len(seen) < _ENOUGH:
            return self.first
        counted, found = self._late.get(kind, (0, 0.0))
        if not found or self._count - counted >= _ENOUGH:
            known = sorted(seen.copy())  # other threads add meanwhile
            found = max(known[len(known) * 9 // 10], 0.001)
            self._late[kind] = self._count, found
        return min(found, self.first)

    def far_too_late(self, nbytes: int, most: float) -> float:
        """Seconds after which an answer of this size hardly comes: many times what nine of ten took, if known."""
        self.late(nbytes)
        known = self._late.get(size_class(nbytes))
        return most if known is None else min(8 * max(known[1], self.first), most)

    def spend(self) -> bool:
        """Whether one more may be asked for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Members:
    """All of them.

    Args:
        children: Connectors, each another place.
        standings: What is said of each.
        now: The clock.
    """

    def __init__(
        self,
        children: Sequence[Any],
        standings: Sequence[Standing] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        said = standings or [Standing()] * len(children)
        self.all = [Member(child, standing, now) for child, standing in zip(children, said, strict=True)]
        specs = [member.spec for member in self.all]
        if not specs or len(set(specs)) < len(specs):
            raise ConfigurationError(f"Shards need different children, not {', '.join(specs) or 'none'}.")
        self.by_label = {member.label: number for number, member in enumerate(self.all)}
        if len(self.by_label) < len(specs):
            raise ConfigurationError("Two children have the same label by chance; give one of them another namespace.")
        on_fork(self)

    def after_fork(self) -> None:
        """A child has no calls under way."""
        for member in self.all:
            member.under_way = 0

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> Member:
        return self.all[number]

    def timed(self, number: int, what: str, call: Callable[[Any], T], nbytes: int | None = None) -> Callable[[], T]:
        """A call to a member that is counted, in whichever thread it ends; sizes are those of what is answered."""
        member = self.all[number]

        def run() -> T:
            if member.stuck:
                raise ConnectorError(f"{member.under_way} calls to it are under way, and none is answered.")
            began = time.monotonic()
            member._asked = member._now()
            if not member.under_way:
                member._since = member._asked
            member.under_way += 1
            try:
                value = call(member.child)
            except ProxyfabError as error:
                member.ill(error)
                raise
            finally:
                member.under_way -= 1
            moved = getattr(value, "nbytes", 0) if nbytes is None else nbytes
            member.well(what, moved, time.monotonic() - began)
            return value

        return run
