"""A demo that is over in a second."""

from __future__ import annotations

from proxyfab.demo.setup import Setup

SMALL = Setup(frames=9, size=128, angles=192, workers=2, deadline=60)
