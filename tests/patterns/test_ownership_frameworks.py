"""Ownership under frameworks that pickle, copy and retry as they like: Dask, and the manners of Parsl."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.errors import BorrowError
from proxyfab.patterns import borrow, own, release, scope, update
from proxyfab.patterns.ownership.verbs import held
from proxyfab.testing import until
from tests.patterns import ownership_roles as roles

ROOT = Path(__file__).parents[2]


def test_dask() -> None:
    """In an interpreter of its own: a cluster leaves threads and processes behind."""
    pytest.importorskip("distributed")
    with tempfile.TemporaryDirectory(dir=os.environ["PROXYFAB_SHM_DIR"]) as shm:
        done = subprocess.run(
            [sys.executable, "-c", "from tests.patterns.test_ownership_frameworks import with_dask; with_dask()"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PROXYFAB_SHM_DIR": shm},
            cwd=shm,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def with_dask() -> None:
    import distributed

    with (
        Store(name="ownership-dask") as store,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        borrowed_and_back(store, client)
        retried(store, client)


def borrowed_and_back(store: Store, client: object) -> None:
    o = own(store, list(range(1000)))
    lent = borrow(o, scoped=True)
    futures = client.map(roles.plus, range(8), values=lent)  # type: ignore[attr-defined]  # a Dask client
    assert client.gather(futures) == [499_500 + number for number in range(8)]  # type: ignore[attr-defined]
    assert client.submit(roles.total, borrow(o), pure=False).result(60) == 499_500  # type: ignore[attr-defined]
    release(lent)
    assert until(lambda: _nobody_borrows(o))  # the worker ends its borrow some time after its task
    message = client.submit(roles.grown, o, pure=False)  # type: ignore[attr-defined]
    back = message.result(60)
    assert back[-1] == 99
    data = held(back).account.data
    release(back, timeout=20)
    assert not store.exists(data)


def _nobody_borrows(o: object) -> bool:
    try:
        update(o)
    except BorrowError:
        return False
    return True


def retried(store: Store, client: object) -> None:
    """Workers die in the middle of a task, which is run again elsewhere; its input goes when it is done."""
    o = own(store, list(range(100)))
    lent, data = borrow(o, scoped=True), held(o).account.data
    future = client.submit(roles.fails_once, lent, os.path.join(os.getcwd(), "died"), retries=3)  # type: ignore[attr-defined]
    scope(future, lent, o)
    del lent, o
    assert future.result(80) == 4950
    assert until(lambda: not store.exists(data))


class TestLikeParsl:
    """Arguments are copied deeply before a task is tried, pickled once for each attempt, and unpickled twice."""

    def test_a_scoped_borrow(self) -> None:
        with Store("shm://") as store:
            o = own(store, list(range(100)))
            lent = borrow(o, scoped=True)
            arguments = copy.deepcopy(((lent,), {"values": lent}))
            for _ in range(3):
                message = pickle.dumps(arguments)
                for _ in range(2):
                    (first,), named = pickle.loads(message)
                    assert roles.total(first) == roles.total(named["values"]) == 4950
            del arguments, first, named
            release(lent)
            release(o)

    def test_a_plain_borrow(self) -> None:
        with Store("shm://") as store:
            o = own(store, list(range(100)))
            arguments = copy.deepcopy(((borrow(o),), {}))
            message = pickle.dumps(arguments)
            attempts = [pickle.loads(message)[0][0] for _ in range(2)]
            assert [roles.total(each) for each in attempts] == [4950, 4950]
            with pytest.raises(BorrowError, match="borrowed"):
                release(o, timeout=0)
            del arguments, attempts
            assert until(lambda: _released(o))

    def test_an_owner_is_cloned_by_a_deep_copy(self) -> None:
        with Store("shm://") as store:
            o = own(store, list(range(100)))
            arguments = copy.deepcopy([o])
            sent = pickle.loads(pickle.dumps(arguments))
            assert roles.total(sent[0]) == 4950
            release(sent[0])
            assert roles.total(o) == 4950
            release(o)

    def test_an_error_that_says_no_crosses_the_boundary(self) -> None:
        with Store("shm://") as store:
            o = own(store, [1])
            message = pickle.dumps(o)
            taken = pickle.loads(message)
            assert taken == [1]
            with pytest.raises(BorrowError) as caught:
                len(pickle.loads(message))
            again = pickle.loads(pickle.dumps(caught.value))
            assert str(again) == str(caught.value)
            release(taken)


def _released(o: object) -> bool:
    try:
        release(o, timeout=0)
    except BorrowError:
        return False
    return True
