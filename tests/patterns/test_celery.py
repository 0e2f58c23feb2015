"""`proxied` over and under Celery's tasks, and tasks that look like them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from proxyfab import Store, is_resolved, ref_of
from proxyfab.patterns import proxied
from tests.patterns.test_frameworks import BIG, report


@pytest.fixture
def store(shared_memory_root: Path) -> Iterator[Store]:
    with Store(name="test-celery") as opened:
        yield opened
        opened.clear()


class Task:
    """What Celery's tasks look like; a message is a pickle, and the worker finds the task by its name."""

    tasks: ClassVar[dict[str, Task]] = {}

    def __init__(self, run: Any) -> None:
        self.name = run.__name__
        self.run = run
        self.tasks[self.name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = (), kwargs: Any = None, *, queue: str = "q") -> tuple[int, Any]:
        message = pickle.dumps((self.name, args, kwargs or {}))
        name, args, kwargs = pickle.loads(message)
        return len(message), pickle.loads(pickle.dumps(self.tasks[name].run(*args, **kwargs)))


@pytest.mark.parametrize("lazy", [True, False])
def test_over_a_task_like_celerys(store: Store, lazy: bool) -> None:
    task = proxied(store, above="10 KB", lazy=lazy)(Task(report))

    for size, (given, _, _, result) in (task.delay(BIG), task.apply_async((BIG,), queue="fast")):
        assert size < 1000
        assert given == lazy
        assert not is_resolved(result)
        assert np.array_equal(result, BIG * 2)
    assert task(BIG)[0] == lazy
    assert task.name == task.__name__ == "report"
    with pytest.raises(AttributeError):
        task.nothing


def test_under_a_task_like_celerys(store: Store) -> None:
    task = Task(proxied(store, above="10 KB")(report))

    size, (_, _, _, result) = task.delay(store.proxy(BIG))

    assert size < 1000
    assert not is_resolved(result)
    assert ref_of(result).url == store.url


def test_celery_itself(store: Store) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("test", broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, task_store_eager_result=False, task_serializer="pickle")

    task = proxied(store, above="10 KB")(app.task(name="report")(report))

    given, _, _, result = task.delay(BIG).get()
    assert given
    assert np.array_equal(result, BIG * 2)
