"""What gateways say to one another: questions as keys of a link (`link.session`), and answers as objects. Sans-IO.

    get    site, namespace, incarnation, id, near  the object, behind 64 bytes that say how long it lives;
                                                   or `Elsewhere`: a site that is `near` to who asks has a copy
    do     site, namespace, incarnation, ids, verb, fields     the fields of the answer
    wait   site, namespace, incarnation, ids, seconds          which of them are there, as soon as one is
    fetch  site, namespace, incarnation, ids, seconds          which of them the asked gateway has brought to its site
    take   site, namespace, incarnation, ids, seconds, fields  nothing: what lay at `from` is under the one id now

Rules:
1. Whatever came, a Question or an IntegrityError comes out.
2. A namespace of another site is written `site/namespace/incarnation`, here and by clients: no client can put into it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError, ProxyfabError
from proxyfab.server.index import Name

PATIENCE = 50.0
"""Seconds that a client waits who says nothing about it."""
_LIFE = struct.Struct("<d56x")
"""64 bytes, so that what is behind them keeps its alignment."""
DONE = frozenset({"exists", "stat", "evict", "renew"})
"""Verbs that one gateway does for another."""
_IDS = 1024
_ID = 200
"""Characters of an id at most, as for clients."""
_NEAR = 16


class Elsewhere(ProxyfabError):
    """A copy lies at the site that this names, which is nearer to who asks."""


class Home(NamedTuple):
    """Where objects are at home."""

    site: str
    namespace: str
    incarnation: str

    def __str__(self) -> str:
        return "/".join(self)


def home_of(namespace: str) -> Home | None:
    """Which other site a namespace is of; None for one of this server's own."""
    if "/" not in namespace:
        return None
    parts = namespace.split("/")
    if len(parts) != 3 or not all(parts):
        raise ConfigurationError(f"{namespace[:200]!r} names no namespace, of this site or of another one.")
    return Home(*parts)


class Question(NamedTuple):
    """What a gateway is asked by another one."""

    verb: str
    home: Home
    ids: list[str]
    what: str = ""
    """Of `do`: which verb."""
    fields: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it
    seconds: float = 0.0
    near: tuple[str, ...] = ()

    def names(self, site: str) -> list[Name]:
        """The objects, as the gateway of `site` calls them."""
        space = self.home.namespace if self.home.site == site else str(self.home)
        return [Name(space, id) for id in self.ids]

    @property
    def change(self) -> str:
        """Which change this asks for, whose answer would be another one the second time; `""` for none.

        A link that breaks asks again what was not answered, also while it is being done.
        """
        if self.verb == "take":
            return f"take {self.home!r} {self.ids!r} {self.fields.get('from')!r}"
        request = self.fields.get("request")
        return f"evict {request.hex()}" if self.what == "evict" and isinstance(request, bytes) else ""


def get(home: Home, id: str, near: Sequence[str] = ()) -> list[Any]:
    """A question."""
    return ["get", *home, id, list(near)]


def do(home: Home, verb: str, ids: Sequence[str], fields: dict[str, Any]) -> list[Any]:
    """A question."""
    return ["do", *home, list(ids), verb, fields]


def wait(home: Home, ids: Sequence[str], seconds: float) -> list[Any]:
    """A question."""
    return ["wait", *home, list(ids), seconds]


def fetch(home: Home, ids: Sequence[str], seconds: float) -> list[Any]:
    """A question."""
    return ["fetch", *home, list(ids), seconds]


def take(home: Home, id: str, staged: Sequence[str], fields: dict[str, Any], seconds: float) -> list[Any]:
    """A question."""
    return ["take", *home, [id], seconds, {**fields, "from": list(staged)}]


def read(key: Any) -> Question:
    """A question that came.

    Raises:
        IntegrityError: It is none.
    """
    match key:
        case ["get", str(site), str(namespace), str(incarnation), str(id), list(near)]:
            return Question("get", Home(site, namespace, incarnation), _ids([id]), near=tuple(map(str, near[:_NEAR])))
        case ["do", str(site), str(namespace), str(incarnation), list(ids), str(verb), dict(fields)] if verb in DONE:
            return Question("do", Home(site, namespace, incarnation), _ids(ids), verb, fields)
        case ["take", str(site), str(namespace), str(incarnation), [str(id)], float(seconds), dict(fields)]:
            return Question(
                "take", Home(site, namespace, incarnation), _ids([id]), fields=fields, seconds=_seconds(seconds)
            )
        case ["wait" | "fetch" as verb, str(site), str(namespace), str(incarnation), list(ids), float(seconds)]:
            return Question(verb, Home(site, namespace, incarnation), _ids(ids), seconds=_seconds(seconds))
    raise IntegrityError("A site asks for something that this version does not know; upgrade the older side.")


def staged_in(fields: dict[str, Any]) -> tuple[Home, str]:
    """Where an object lies that is to be taken."""
    match fields.get("from"):
        case [str(site), str(namespace), str(incarnation), str(id)]:
            return Home(site, namespace, incarnation), id
    raise IntegrityError("A site asks to take an object, and does not say from where.")


def _seconds(seconds: float) -> float:
    if not 0.0 <= seconds <= 1e6:
        raise IntegrityError("A site asks for a time that is none.")
    return seconds


def _ids(ids: list[Any]) -> list[str]:
    if len(ids) > _IDS or any(id.__class__ is not str or not 0 < len(id) <= _ID for id in ids):
        raise IntegrityError("A site asks for objects by names that are none.")
    return ids


def packed(fields: dict[str, Any]) -> Frames:
    """The fields of an answer, as an object."""
    from msgpack import packb

    return Frames([packb(fields)])


def unpacked(frames: Frames) -> dict[str, Any]:
    """The inverse of `packed`.

    Raises:
        IntegrityError: It is none.
    """
    from msgpack import unpackb

    try:
        fields = unpackb(frames.join(), strict_map_key=True)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"The answer of a site cannot be read: {error}") from error
    if fields.__class__ is not dict:
        raise IntegrityError("The answer of a site has no fields.")
    return fields


def flags(fields: dict[str, Any], many: int) -> list[bool]:
    """What another site answers about as many objects, and nothing else of it.

    Raises:
        IntegrityError: It is no answer to that.
    """
    found = fields.get("found")
    if found.__class__ is not list or len(found) != many or any(each.__class__ is not bool for each in found):
        raise IntegrityError("A site does not say of each object that it was asked about what is with it.")
    return list(found)


def places(fields: dict[str, Any], many: int) -> list[int]:
    """Which of so many objects are there, as another site answers; raises like `flags`."""
    found = fields.get("found")
    if found.__class__ is not list or len(found) > many:
        raise IntegrityError("A site does not say which objects are there.")
    if any(each.__class__ is not int or not 0 <= each < many for each in found):
        raise IntegrityError("A site says that objects are there which it was not asked about.")
    return list(found)


def rows(fields: dict[str, Any], home: Home, ids: Sequence[str]) -> list[list[Any] | None]:
    """What another site knows of objects, as `stat` says it; raises like `flags`."""
    found = fields.get("rows")
    if found.__class__ is not list or len(found) != len(ids):
        raise IntegrityError(f"Site {home.site} does not say of each object that it was asked about what it knows.")
    known: list[list[Any] | None] = []
    for row, id in zip(found, ids, strict=True):
        match row:
            case None:
                known.append(None)
            case [str(), str(), int(nbytes), float(created), float() | None as expires, str(owner)]:
                known.append([str(home), id, nbytes, created, expires, owner])
            case _:
                raise IntegrityError(f"What site {home.site} knows of an object cannot be read.")
    return known


def with_life(frames: Frames, left: float | None) -> Frames:
    """An object on its way, behind how many seconds it lives from now on; None for ever."""
    return Frames([_LIFE.pack(math.inf if left is None else left), *frames.views])


def without_life(frames: Frames) -> tuple[Frames, float | None]:
    """The inverse of `with_life`."""
    if frames.nbytes < _LIFE.size:
        raise IntegrityError("An object of a site came without what goes before it.")
    (left,) = _LIFE.unpack(frames.slice(0, _LIFE.size).tobytes())
    if math.isnan(left):
        raise IntegrityError("An object of a site came without a time to live.")
    return frames.slice(_LIFE.size, frames.nbytes - _LIFE.size), None if left == math.inf else left
