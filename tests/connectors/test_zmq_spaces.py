"""Unnamed namespaces on a node server live as long as the process that drew them, whoever else uses them."""

from __future__ import annotations

import multiprocessing

from proxyfab import Key, Store
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import DEADLINE


def _put(store: Store, key: Key) -> None:
    store.put(1, key=key)


def test_what_a_forked_child_is_the_first_to_put_outlives_it() -> None:
    with NodeServer() as server, Store(server.url) as store:
        key = store.reserve()
        child = multiprocessing.get_context("fork").Process(target=_put, args=(store, key))
        child.start()
        child.join(DEADLINE)
        assert child.exitcode == 0
        assert store.get(key) == 1
