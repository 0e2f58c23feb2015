"""The emulated facilities: what a cut does to packets, and that nothing is left of them, however their maker ends."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys

import pytest

from proxyfab.errors import ConfigurationError
from proxyfab.testing.processes import until
from proxyfab.wan.emulator import Direction, Way
from proxyfab.wan.facilities import Facilities, missing

_MAKER = """
import json, pathlib, sys
from proxyfab.wan.facilities import Facilities
with Facilities(routed=True) as world:
    children = pathlib.Path("/proc/thread-self/children").read_text().split()
    print(json.dumps([children, world.path("siteA")]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_killed_maker_leaves_nothing():
    maker = subprocess.Popen([sys.executable, "-c", _MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with maker:
        children, space = json.loads(maker.stdout.readline())
        assert os.path.exists(space)
        assert len(children) == 2
        maker.kill()
        maker.wait(30)

    assert until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_kernel_says_nothing_of_its_own_on_the_way():
    with Facilities() as world:
        for role in ("siteA", "siteB", "inet"):
            done = subprocess.run(
                world.inside(role, ["ip", "-6", "-o", "addr", "show", "scope", "link"]), capture_output=True, check=True
            )
            assert done.stdout == b""


def test_who_is_not_root_is_told(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with (
        pytest.raises(ConfigurationError, match=r"cannot be emulated here: network namespaces need root\."),
        Facilities(),
    ):
        pass


def test_packets_come_after_the_delay_and_not_during_a_cut():
    source, into = os.pipe()
    out, sink = os.pipe()
    os.set_blocking(source, False)
    try:
        way = Direction(Way((("a", "x", ""), ("b", "y", "")), delay=0.02, rate=1e9), source, sink, 1)
        os.write(into, b"lost")
        way.take(cut=True)
        assert way.due is None
        os.write(into, b"packet")
        way.take(cut=False)
        assert way.due is not None
        way.give()
        assert select.select([out], [], [], 0)[0] == []  # not yet
        assert until(lambda: (way.give(), way.due is None)[1])
        assert os.read(out, 100) == b"packet"
    finally:
        for each in (source, into, out, sink):
            os.close(each)
