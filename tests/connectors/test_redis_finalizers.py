"""redis:// in the hands of finalizers: what the collector ends in the midst of a call may itself put, get and evict."""

from __future__ import annotations

import gc

from proxyfab.connectors.redis import RedisConnector
from proxyfab.connectors.redis.keeper import keeper
from proxyfab.connectors.redis.owners import Owner as Process
from proxyfab.osio.owner import this_process
from proxyfab.resp.place import Place
from proxyfab.testing import in_fork
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.servers import RedisServer
from tests.connectors.test_finalizers import Owner, end_owners_everywhere


def test_a_finalizer_may_use_the_connector_it_interrupts(redis_server: RedisServer) -> None:
    url = f"{redis_server.database()}?lease=9000"
    assert in_fork(lambda: end_owners_everywhere(url, 1000), timeout=30) > 0


def first_puts(url: str) -> int:
    """Each into an unnamed namespace of its own, in the midst of which others do the same; how many those were."""

    def use() -> None:
        with RedisConnector.from_url(url) as one:
            assert is_whole(one.get(one.put(signed(100))))

    gc.freeze()  # else each collection looks at all that the tests have loaded
    for allocations in range(1, 400, 8):
        Owner(use)
        gc.set_threshold(allocations, 1000, 1000)
        use()
    gc.set_threshold(700, 10, 10)
    Owner.busy = True
    return Owner.ended


def test_a_finalizer_may_be_the_first_to_put_while_one_is(redis_server: RedisServer) -> None:
    url = f"{redis_server.database()}?lease=9000"
    assert in_fork(lambda: first_puts(url), timeout=30) > 0


class Interrupted(str):
    """A namespace at whose keeping a finalizer strikes that has another one kept."""

    __slots__ = ()
    struck = False

    def __hash__(self) -> int:
        if not Interrupted.struck:
            Interrupted.struck = True
            keeper.keep(*kept("~inner"))
        return super().__hash__()


def kept(namespace: str) -> tuple[Place, str, Process]:
    return Place.parse("redis://localhost:1/0?lease=9000")[0], namespace, Process.of(this_process())


def test_a_finalizer_may_have_a_namespace_kept_while_one_is() -> None:
    def keep() -> list[bool]:
        place, outer, process = kept("~outer")
        keeper.keep(place, Interrupted(outer), process)
        return [keeper.keeps(place, namespace) for namespace in ("~inner", "~outer", "~other")]

    assert in_fork(keep, timeout=10) == [True, True, False]
