"""How long after a deadline an answer may come."""

from __future__ import annotations

from math import inf

import pytest

from proxyfab.grace import grace


@pytest.mark.parametrize(
    ("pace", "more", "seconds"),
    [
        (0.0, {}, 0.05),
        (0.1, {}, 0.3),
        (9.0, {}, 0.5),
        (inf, {}, 0.5),
        (0.0, {"least": 0.15}, 0.15),
        (9.0, {"least": 0.6}, 0.6),
        (2.0, {"most": inf}, 6.0),
        (0.0, {"most": inf}, 0.05),
    ],
)
def test_who_is_far_has_longer_and_who_hangs_does_not(pace: float, more: dict[str, float], seconds: float) -> None:
    assert grace(pace, **more) == pytest.approx(seconds)
