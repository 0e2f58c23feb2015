"""erasure:// under faults at random, each run of which a seed tells all (`erasure_model`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.connectors.erasure_history import FOREVER, Call, explained
from tests.connectors.erasure_model import Model, run
from tests.connectors.erasure_world import end

_FAILED = (82, 115, 120, 145, 158, 287)
"""What came back, or stayed: moved to who had lost his own, restored beside an evict, put too late."""


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end()


def test_runs_with_faults_at_random() -> None:
    for seed in [*range(50), *_FAILED]:
        run(seed, phases=1, calls=4)


@pytest.mark.slow
@pytest.mark.parametrize("low", range(0, 4000, 100))
def test_many_runs_with_faults_at_random(low: int) -> None:
    for seed in range(low, low + 100):
        run(seed)


def test_a_run_depends_on_nothing_but_its_seed() -> None:
    assert len({"\n".join(_log(3)) for _ in range(2)}) == 1


def _log(seed: int) -> list[str]:
    return run(seed, phases=1, calls=4).log


def test_what_no_register_could_have_answered_is_told() -> None:
    put = Call("put", 1, 2, "a")
    got = Call("get", 3, 4, answer="a")
    gone = Call("get", 5, 6)
    evict = Call("evict", 4.5, 4.6)
    assert explained([put, got])
    assert explained([put, got, evict, gone])
    assert explained([put._replace(end=FOREVER), gone, got._replace(begin=7, end=8)])  # unanswered, it came late
    assert explained([put, evict._replace(end=FOREVER), got._replace(begin=7, end=8)])  # unanswered, it never came
    assert not explained([put, evict, got._replace(begin=7, end=8)])
    assert not explained([put, gone])
    assert not explained([put, evict._replace(end=FOREVER), gone, got._replace(begin=7, end=8)])
    assert explained([put, Call("swap", 3, 4, "b", old="a", answer=True), got._replace(begin=5, end=6, answer="b")])
    assert not explained([put, Call("swap", 3, 4, "b", old="c", answer=True)])
    assert not explained([put, Call("fresh", 3, 4, "b", answer=True)])


def test_a_model_that_promises_too_much_fails() -> None:
    model = Model(1, phases=1, calls=4)
    model.history["a"] = [Call("get", -2.0, -1.0, answer="never put")]
    with pytest.raises(AssertionError):
        model.run()
