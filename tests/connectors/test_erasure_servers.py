"""erasure:// over real servers: a Redis or a node server dies and comes back with nothing, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.keys import Key
from proxyfab.scattering.upkeep import Upkeep
from proxyfab.testing.content import plain
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer

SMALL, LARGE = Frames([plain(900)]), Frames([plain(3_000_000, 1)])
Mortal = RedisServer | NodeServer


class Places:
    """Three children, and the server of the first, which nobody else uses."""

    def __init__(self, mortal: Mortal, children: list[str]) -> None:
        self.mortal = mortal
        texts = "&".join(f"child={child}" for child in children)
        self.url = f"erasure://?k=2&m=1&small=1KiB&patience=20&{texts}"

    def back(self) -> None:
        """It runs again, where it was."""
        if isinstance(self.mortal, NodeServer):
            self.mortal.restart()
        else:
            self.mortal.start()


@pytest.fixture(params=["redis", "zmq"])
def places(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[Places]:
    """One child of the kind on a server of its own; the others are on the one that all share, and in a directory."""
    with ExitStack() as stack:
        one: Mortal = stack.enter_context(RedisServer() if request.param == "redis" else NodeServer())
        mine = one.database() if isinstance(one, RedisServer) else one.url
        yield Places(one, [mine, redis_server.database(), f"file://{tmp_path}"])


def test_a_server_dies_and_comes_back_with_nothing(places: Places) -> None:
    one = ErasureConnector.from_url(places.url, name="run")
    try:
        keys = [one.put(SMALL), one.put(LARGE), one.put(LARGE, key=Key("named"))]
        wanted = [SMALL, LARGE, LARGE]
        places.mortal.kill()
        assert one.get_many(keys) == wanted
        assert one.exists_many(keys) == [True] * 3
        keys.append(one.put(LARGE))
        places.back()
        report = Upkeep(one.scattering, one.registers).scrub(repair=True)
        assert (report.lost, report.failures) == ((), ())
        assert report.restored == report.missing > 0
        assert Upkeep(one.scattering, one.registers).scrub().missing == 0
        one.children[2].clear()
        assert one.get_many(keys) == [*wanted, LARGE], "what was restored is as good as the rest"
        assert one.clear() == 4
    finally:
        one.close()
