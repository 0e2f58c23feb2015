"""The roll: which members belong together, as whoever added or drained one of them last has left it.

Each member has a copy, so that nobody goes on from a URL that is not the latest: a change on top of one that the URL
does not know of could leave names without the majority that knows what they mean, and move shards to where somebody is
about to leave. Members of which none was ever added or drained have no roll.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, NamedTuple
from zlib import crc32

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, IntegrityError
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
    """The latest roll that a member has; None where none has any. One that is broken is told of, and not believed."""
    return max(_found(means)[0], default=None)


def _found(means: Means) -> tuple[list[Roll], list[str]]:
    """The rolls that members have, and what is to be said of those that are none."""
    return _parsed_of(means, _everywhere(means, "roll", lambda child: child.get(Key(ROLL))))


def _parsed_of(means: Means, answers: list[Answer[object]]) -> tuple[list[Roll], list[str]]:
    rolls, broken = [], []
    for one in answers:
        if isinstance(one.value, Frames):
            try:
                rolls.append(_parsed(one.value))
            except IntegrityError as error:
                means.members[one.child].warn("A roll was not read", error)
                broken.append(f"{means.members[one.child].spec}: {error}")
    return rolls, broken


def call(means: Means, members: Iterable[bytes]) -> None:
    """Have every member that answers keep that these belong together."""
    before, now = latest(means) or Roll(0, frozenset()), frozenset(members)
    former = (before.members | before.former | means.members.by_label.keys()) - now
    written = max(time.time_ns(), before.written + 1)  # whatever another one's clock says
    text = " ".join([_FORM, str(written), _text(now), _text(former)])
    frames = Frames([f"{text} {crc32(text.encode()):08x}".encode()])
    _everywhere(means, "put", lambda child: child.put(frames, key=Key(ROLL), replace=True))


def check(means: Means, joining: frozenset[bytes] = frozenset(), leaving: bytes = b"") -> bool:
    """Refuse members that are not those on the roll.

    Args:
        means: Whose members.
        joining: Labels of those to come, which may be there already: whoever added them was interrupted.
        leaving: The label of one to go, who may be gone already: likewise.

    Returns:
        Whether those to come are on the roll.

    Raises:
        ConfigurationError: Somebody is on one side only; it says what to do.
    """
    rolls, broken = _found(means)
    if not rolls:
        if broken:
            raise ConfigurationError(f"Who belongs together cannot be told; evict {ROLL} there: {'; '.join(broken)}.")
        return False
    found = max(rolls)
    strangers = [one.spec for one in means.members.all if one.label not in found.members and one.label != leaving]
    if strangers:
        raise ConfigurationError(
            f"{', '.join(strangers)}: drained, or never added, and yet in this URL. Take it out of the URL first; what "
            f"is to come (back) comes by `proxyfab erasure add`."
        )
    lacking = len(found.members - means.members.by_label.keys() - joining)
    if lacking:
        raise ConfigurationError(
            f"{lacking} of the children that were added are not in this URL. Use the one that `proxyfab erasure add` "
            f"printed; if they are lost, run `proxyfab erasure repair` with this one first."
        )
    return bool(joining) and joining <= found.members


def follows(means: Means) -> bool:
    """Whether every majority of these members meets every majority of those on the roll.

    The roll is one that most of these have: a few that lie stop nobody. Once most have answered, the others are waited
    for only if those do not say the same, and a little: who asks is about to change a name.
    """
    most = len(means.members) // 2 + 1

    def said(answers: list[Answer[object]]) -> list[Answer[object]]:
        """Those who say the same as most."""
        texts = {one.child: one.value.tobytes() for one in answers if isinstance(one.value, Frames)}
        counts = Counter(texts.get(one.child) for one in answers if one.error is None)
        return [one for one in answers if one.error is None and counts[texts.get(one.child)] >= most]

    with closing(_asked(means, "roll", lambda child: child.get(Key(ROLL)))) as race:
        answers = means.answers(race, lambda found: sum(one.error is None for one in found) >= most)
        if not said(answers):
            answers += means.answers(race, lambda _: True, all=True)
    rolls = _parsed_of(means, said(answers))[0]
    if not rolls:
        return True
    ours, theirs = means.members.by_label.keys(), max(rolls).members
    return most + len(theirs) // 2 + 1 > len(ours | theirs)


def _text(labels: Iterable[bytes]) -> str:
    return ",".join(sorted(label.hex() for label in labels)) or "-"


def _parsed(stored: Frames) -> Roll:
    text = stored.tobytes().decode("ascii", "replace")
    try:
        if not text.startswith(_FORM):
            raise ValueError(text[:20])
        body, _, check = text.rpartition(" ")
        if int(check, 16) != crc32(body.encode()):
            raise ValueError(check)
        written, *sides = body.removeprefix(_FORM).split()
        members, former = [frozenset(map(bytes.fromhex, side.strip("-").split(","))) - {b""} for side in sides]
        return Roll(int(written), members, former)
    except ValueError:
        raise IntegrityError(f"What lies under {ROLL} is no roll of this form, or damaged ({text[:20]!r}).") from None


def _everywhere(means: Means, what: str, ask: Callable[[Any], object]) -> list[Answer[object]]:
    with closing(_asked(means, what, ask)) as race:
        return means.answers(race, nothing)


def _asked(means: Means, what: str, ask: Callable[[Any], object]) -> Race[object]:
    race: Race[object] = Race()
    try:
        for member in range(len(means.members)):
            means.ask(race, member, member, what, ask, 0)
    except BaseException:
        race.close()
        raise
    return race
