"""The suite is worth something: connectors that break one rule each are caught by the test of that rule."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors import memory
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import KeyExists, KeyNotFound, ProxyfabError
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests


class Suite(ConnectorTests):
    """Not collected by its name; its methods are called below."""

    __test__ = False
    connector = MemoryConnector


class OverwritesSilently(MemoryConnector):
    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        return super().put(frames, key=key, ttl=ttl, replace=True)


class KeepsNoCopy(MemoryConnector):
    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        key = super().put(frames, key=key, ttl=ttl, replace=replace)
        self._space().entries[key.id].frames = frames
        return key


class HandsOutWritable(MemoryConnector):
    def get(self, key: Key) -> Frames | None:
        frames = super().get(key)
        return None if frames is None else Frames([bytearray(frames.tobytes())])


class ForgetsExpiry(MemoryConnector):
    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        return super().put(frames, key=key, replace=replace)


class RaisesWhenMissing(MemoryConnector):
    def get(self, key: Key) -> Frames | None:
        frames = super().get(key)
        if frames is None:
            raise KeyNotFound("It is missing.")
        return frames


class DeletesOnClose(MemoryConnector):
    def close(self) -> None:
        if not self._closed:
            self.clear()
        super().close()


class StaysOpen(MemoryConnector):
    def close(self) -> None:
        pass


class FoldsCase(MemoryConnector):
    def _own(self, key: Key) -> Key:
        return Key(super()._own(key).id.lower(), super()._own(key).where)

    def _find(self, key: Key) -> Any:
        return super()._find(Key(key.id.lower(), key.where))


class ClearsAll(MemoryConnector):
    def clear(self) -> int:
        return sum(self._wipe(space) for space in memory._spaces.values())

    def _wipe(self, space: Any) -> int:
        count = len(space.entries)
        space.entries.clear()
        return count


class WaitsDeaf(MemoryConnector):
    def wait(self, key: Key, timeout: float | None = None) -> bool:
        time.sleep(min(timeout or 0, 0.01))
        return self.exists(key)


class CutsRangesWrong(MemoryConnector):
    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        return super().get_range(key, offset, length + 1)


class Tears(MemoryConnector):
    """Writes in place, as who thinks that a lock is enough."""

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        old = None if key is None else self._space().entries.get(key.id)
        if old is None or not replace or old.frames.nbytes != frames.nbytes:
            return super().put(frames, key=key, ttl=ttl, replace=replace)
        assert key is not None
        frames.copy_into(memoryview(old.frames.join().obj))
        return key


class ChecksThenActs(MemoryConnector):
    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        if key is not None and not replace and self.exists(key):
            raise KeyExists("It is there.")
        time.sleep(0.001)
        return super().put(frames, key=key, ttl=ttl, replace=True)


class LeaksBuiltInErrors(MemoryConnector):
    def get(self, key: Key) -> Frames | None:
        return self._space().entries[key.id].frames


BREAKS: dict[type[BaseConnector], Callable[..., Any]] = {
    OverwritesSilently: Suite.test_objects_are_written_once,
    KeepsNoCopy: Suite.test_a_put_keeps_what_the_bytes_were,
    HandsOutWritable: Suite.test_who_reads_shared_bytes_cannot_write_them,
    ForgetsExpiry: Suite.test_a_time_to_live_is_told,
    RaisesWhenMissing: Suite.test_missing_is_none_or_false,
    LeaksBuiltInErrors: Suite.test_missing_is_none_or_false,
    FoldsCase: Suite.test_any_id_is_its_own_key,
    ChecksThenActs: Suite.test_of_many_writers_one_wins,
    Tears: Suite.test_a_replaced_object_stays_readable_for_who_has_it,
    WaitsDeaf: Suite.test_all_waiters_are_told,
}
BREAKS_SEVERAL: dict[type[BaseConnector], Callable[..., Any]] = {
    DeletesOnClose: Suite.test_close_deletes_nothing_and_can_be_repeated,
    ClearsAll: Suite.test_clear_deletes_its_own_namespace_and_counts,
}


@pytest.mark.parametrize("broken", BREAKS, ids=lambda kind: kind.__name__)
def test_one_broken_rule_is_caught(broken: type[BaseConnector]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, ProxyfabError, KeyError)):
        BREAKS[broken](Suite(), broken())

    BREAKS[broken](Suite(), MemoryConnector())


@pytest.mark.parametrize("broken", BREAKS_SEVERAL, ids=lambda kind: kind.__name__)
def test_one_broken_rule_between_connectors_is_caught(broken: type[BaseConnector]) -> None:
    def connect(name: str | None = None, url: str = "memory://") -> BaseConnector:
        return broken.from_url(url, name=name)

    with pytest.raises(AssertionError):
        BREAKS_SEVERAL[broken](Suite(), connect)


def test_what_stays_open_is_caught() -> None:
    with pytest.raises(pytest.fail.Exception):
        Suite().test_what_is_closed_says_so(StaysOpen())


def test_a_wrong_range_is_caught() -> None:
    with pytest.raises(AssertionError):
        Suite().test_a_range_is_a_slice(CutsRangesWrong(), 9_999, 2)
