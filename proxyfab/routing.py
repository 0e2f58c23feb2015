"""Where an object goes: rules as data, one pure function that decides by them, and how a rule stands in a URL.

    routed://?to=shm://;below=1MiB&to=file:///scratch;tag=keep,host=gpu*&to=redis://store

A route is a URL, and behind its last `;` conditions with commas between: all must hold. The text of a URL inside a URL
is escaped as in any query (`&`, `#`, `%`, `+`, spaces and what is not ASCII); a URL that has a `;` itself has one more
behind it.

Promises: the same rules, object and estimates give the same answer in every process; nothing here does I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.fork import on_fork
from proxyfab.spec import nbytes
from proxyfab.trace import here

SITE = "PROXYFAB_SITE"
"""The environment variable that names the site of a process."""
PREFER = ("first", "cheapest")
_WEIGHT = 0.2
_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
_tag: ContextVar[str] = ContextVar("proxyfab_tag", default="")


class Want(NamedTuple):
    """What is to be put, and where it comes from."""

    nbytes: int
    tag: str = ""
    host: str = ""
    site: str = ""

    @classmethod
    def here(cls, nbytes: int, tag: str | None = None) -> Want:
        """An object of this process; its tag is that of the `tagged` block it is put in."""
        return cls(nbytes, _tag.get() if tag is None else tag, here(), os.environ.get(SITE, ""))


@contextmanager
def tagged(tag: str) -> Iterator[None]:
    """What is put inside the block, by this thread or task, has this tag."""
    token = _tag.set(_word("tag", tag, _WORD))
    try:
        yield
    finally:
        _tag.reset(token)


class Rule(NamedTuple):
    """Which objects a route takes: those for which all of it holds."""

    above: int = 0
    """At least so many bytes."""
    below: int | None = None
    """Less than so many."""
    tag: str = ""
    """Put in a block of `tagged` with this tag; empty for any."""
    host: str = ""
    """Put on a host whose name matches this pattern (`gpu*`); empty for any."""
    site: str = ""
    """Put by a process whose `$PROXYFAB_SITE` is this; empty for any."""

    @classmethod
    def make(
        cls, *, above: int | str = 0, below: int | str | None = None, tag: str = "", host: str = "", site: str = ""
    ) -> Rule:
        """A rule from what people write: sizes as `"1 MiB"`, names as words."""
        low, high = nbytes(above), None if below is None else nbytes(below)
        if high is not None and high <= low:
            raise ConfigurationError(f"No object has at least {low} and less than {high} bytes.")
        return cls(
            low, high, _word("tag", tag, _WORD), _word("host", host, _WORD + "*?[]!"), _word("site", site, _WORD)
        )

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The inverse of `str(rule)`."""
        return cls.make(**assignments(text, cls._fields, "are no conditions of a route", "tag=hot"))

    def __str__(self) -> str:
        sizes = (("above", self.above and _size(self.above)), ("below", self.below is not None and _size(self.below)))
        words = ((name, getattr(self, name)) for name in ("tag", "host", "site"))
        return ",".join(f"{name}={value}" for name, value in (*sizes, *words) if value)

    def refuses(self, want: Want) -> str:
        """Why an object does not go this way; empty where it does."""
        if want.nbytes < self.above:
            return f"{want.nbytes} bytes are less than {_size(self.above)}"
        if self.below is not None and want.nbytes >= self.below:
            return f"{want.nbytes} bytes are not below {_size(self.below)}"
        if self.tag and want.tag != self.tag:
            return f"its tag is {want.tag!r} and not {self.tag!r}"
        if self.host and not fnmatchcase(want.host, self.host):
            return f"the host {want.host!r} does not match {self.host!r}"
        if self.site and want.site != self.site:
            return f"the site is {want.site!r} and not {self.site!r}"
        return ""


class Judgement(NamedTuple):
    """What a policy says of one route, for one object."""

    route: int
    """Its number in the order of the rules."""
    takes: bool
    why: str
    seconds: float | None
    """What putting and getting such an object there has cost so far; None where it was never done."""


def judge(rules: Sequence[Rule], want: Want, costs: Mapping[int, float], prefer: str = "first") -> list[Judgement]:
    """Every route, those that take the object first and the one it goes to at the head.

    Args:
        rules: In order of preference.
        want: The object.
        costs: Seconds by route, as far as they are known for such an object.
        prefer: `"first"` keeps the order of the rules; `"cheapest"` takes what was never tried, then what costs least.
    """
    said = []
    for number, rule in enumerate(rules):
        refusal, seconds = rule.refuses(want), costs.get(number)
        why = refusal or (f"takes {rule}" if str(rule) else "takes anything")
        said.append(Judgement(number, not refusal, why, seconds))
    untried = 0.0 if prefer == "cheapest" else None
    return sorted(said, key=lambda one: (not one.takes, 0.0 if untried is None else one.seconds or untried))


class Costs:
    """What moving objects has cost: an exponentially weighted mean of seconds by place, operation and size class.

    Thread-safe; a forked child goes on from its parent's figures.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end somebody who puts or evicts
        self._means: dict[tuple[int, str, int], float] = {}
        on_fork(self)

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self._lock = threading.RLock()

    def add(self, place: int, operation: str, nbytes: int, seconds: float) -> None:
        """Count one move."""
        key = place, operation, size_class(nbytes)
        with self._lock:
            known = self._means.get(key)
            self._means[key] = seconds if known is None else known + _WEIGHT * (seconds - known)

    def of(self, nbytes: int) -> dict[int, float]:
        """Seconds to put and, where that was done, to get an object of this size, by place."""
        kind = size_class(nbytes)
        sums: dict[int, float] = {}
        for (place, _, size), seconds in self._means.copy().items():  # copied by one step, so nobody adds meanwhile
            if size == kind:
                sums[place] = sums.get(place, 0.0) + seconds
        return sums


def size_class(nbytes: int) -> int:
    """Objects of one class differ by a factor of four at most."""
    return (max(nbytes, 1024) - 1).bit_length() // 2


def route_text(url: str, conditions: str) -> str:
    """A route as it stands in a URL's option."""
    return f"{url};{conditions}" if conditions or ";" in url else url


def parse_route(text: str) -> tuple[str, str]:
    """URL and conditions; the inverse of `route_text`."""
    url, found, conditions = text.rpartition(";")
    return (url, conditions) if found else (text, "")


def assignments(text: str, names: Sequence[str], wrong: str, example: str) -> dict[str, str]:
    """What `a=b,c=d` says; each name may stand once.

    Raises:
        ConfigurationError: Another name stands there, or one twice: the text and `wrong`, and how it should look.
    """
    parts = [part.partition("=") for part in text.split(",") if part]
    given = {name: value for name, _, value in parts}
    if not given.keys() <= set(names) or len(given) < len(parts):
        raise ConfigurationError(f"{text!r} {wrong}: each of {', '.join(names)} may stand once ({example}).")
    return given


def _size(number: int) -> str:
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number and number % 1024**power == 0:
            return f"{number // 1024**power}{unit}"
    return str(number)


def _word(what: str, text: str, allowed: str) -> str:
    if set(text) - set(allowed):
        raise ConfigurationError(f"{text!r} cannot be a {what}: use letters, digits, '.', '_' and '-'.")
    return text
