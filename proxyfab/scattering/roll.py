"""The roll: which members belong together, as whoever added or drained one of them last has left it.

Each member has a copy, so that nobody goes on from a URL that is not the latest: a change on top of one that the URL
does not know of could leave names without the majority that knows what they mean, and move shards to where somebody is
about to leave. Members of which none was ever added or drained have no roll.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.means import Means, nothing

ROLL = "erasure.roll"
_FORM = "PFEC roll 1"


class Roll(NamedTuple):
    """What a member keeps."""

    written: int
    """Nanoseconds since the epoch."""
    members: frozenset[bytes]
    """Labels of those that belong together."""
    former: frozenset[bytes] = frozenset()
    """Labels of those that did: keys may name nobody else, although the shards lie at others now."""


def latest(means: Means) -> Roll | None:
    """The latest roll that a member has; None where none has any."""
    answers = _everywhere(means, "roll", lambda child: child.get(Key(ROLL)))
    return max((_parsed(one.value) for one in answers if isinstance(one.value, Frames)), default=None)


def call(means: Means, members: Iterable[bytes]) -> None:
    """Have every member that answers keep that these belong together."""
    before, now = latest(means) or Roll(0, frozenset()), frozenset(members)
    former = (before.members | before.former | means.members.by_label.keys()) - now
    text = " ".join([_FORM, str(time.time_ns()), _text(now), _text(former)])
    frames = Frames([text.encode()])
    _everywhere(means, "put", lambda child: child.put(frames, key=Key(ROLL), replace=True))


def check(means: Means) -> None:
    """Refuse members that are not those on the roll.

    Raises:
        ConfigurationError: Somebody is on one side only; it says what to do.
    """
    found = latest(means)
    if found is None:
        return
    strangers = [member.spec for member in means.members.all if member.label not in found.members]
    if strangers:
        raise ConfigurationError(
            f"{', '.join(strangers)}: drained, or never added, and yet in this URL. Take it out of the URL first; what "
            f"is to come (back) comes by `proxyfab erasure add`."
        )
    lacking = len(found.members - means.members.by_label.keys())
    if lacking:
        raise ConfigurationError(
            f"{lacking} of the children that were added are not in this URL. Use the one that `proxyfab erasure add` "
            f"printed; if they are lost, run `proxyfab erasure repair` with this one first."
        )


def _text(labels: Iterable[bytes]) -> str:
    return ",".join(sorted(label.hex() for label in labels)) or "-"


def _parsed(stored: Frames) -> Roll:
    text = stored.tobytes().decode("ascii", "replace")
    try:
        if not text.startswith(_FORM):
            raise ValueError(text[:20])
        written, *sides = text.removeprefix(_FORM).split()
        members, former = [frozenset(map(bytes.fromhex, side.strip("-").split(","))) for side in sides]
        return Roll(int(written), members, former)
    except ValueError:
        raise ConfigurationError(
            f"What lies under {ROLL} at a child is no roll of this form ({text[:20]!r}); upgrade proxyfab, or evict it."
        ) from None


def _everywhere(means: Means, what: str, ask: Callable[[Any], object]) -> list[Answer[object]]:
    race: Race[object] = Race()
    try:
        for member in range(len(means.members)):
            means.ask(race, member, member, what, ask, 0)
        return means.answers(race, nothing)
    finally:
        race.close()
