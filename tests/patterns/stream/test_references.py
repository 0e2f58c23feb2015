"""References in events: they come out as they went in, whatever the type, and nothing else passes for one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from proxyfab import Ref, Store, is_resolved
from proxyfab.errors import IntegrityError
from proxyfab.patterns.stream.references import ref_in, state_of


def travelled(state: object) -> list[object]:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://") as store:
        yield store
        store.clear()


@pytest.mark.parametrize("obj", [np.arange(10.0), np.arange(10_000), {"a": [1, (2, 3)]}, "x" * 9000, np.float32(1.5)])
def test_a_reference_is_the_same_behind_an_event(store: Store, obj: object) -> None:
    ref = store.ref(obj)

    other = ref_in(travelled(state_of(ref, 1)), ["shm://", store.url])

    assert (other.url, other.key, other.nbytes, other.kind, other.once) == (
        ref.url,
        ref.key,
        ref.nbytes,
        ref.kind,
        ref.once,
    )
    np.testing.assert_equal(other.resolve(), obj)
    assert not is_resolved(other.proxy())


def test_an_object_inside_opens_no_store() -> None:
    inside: Ref[object] = Store("memory://").ref([1, 2])

    assert ref_in(travelled(state_of(inside, 0)), ["redis://nowhere.invalid"]).resolve() == [1, 2]


@pytest.mark.parametrize(
    "state",
    [
        [0],
        [0, "a", "", 1, "builtins:int", b"", 0, 0],
        [0, "a b\n", "", 1, "", b"", 0],
        [0, "a@b", "", 1, "", b"", 0],
        [0, "", "", 1, "", b"", 0],
        [0, "a", 7, 1, "", b"", 0],
        [0, "a", "", -1, "", b"", 0],
        [0, "a", "", 1, "", 5, 0],
        [0, "a", "", 1, "", bytes(1000), 0],
        [0, "a", "", 1, "", b"", 256],
        [0, 5, 1, "", b"", 0],
        [0, ["pickle"], 1, "", b"", 0],
        [0, ["pickle", "x", None, "", "text"], 1, "", b"", 0],
    ],
)
def test_what_is_no_reference_is_refused(state: list[object]) -> None:
    with pytest.raises(IntegrityError):
        ref_in(state, ["memory://"])
