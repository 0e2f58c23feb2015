"""What the later acts are compared with."""

from __future__ import annotations

import pytest

from proxyfab import Store
from proxyfab.demo.pipeline import Pipeline
from tests.demo.small import SMALL


@pytest.fixture(scope="module")
def first():
    """What the first act gives."""
    with Store() as store, Pipeline(SMALL.at(store.url)) as pipeline:
        outcome = pipeline.run()
        store.clear()
    return outcome
