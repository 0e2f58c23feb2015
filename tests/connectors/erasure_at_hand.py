"""Connectors of erasure:// for tests, closed when the test that opened them ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.scattering import restoring

_opened: list[ErasureConnector] = []


def over(children: list[Any], k: int, m: int, **how: Any) -> ErasureConnector:
    """A connector that is closed when the test ends, where the test's module has `closed`."""
    _opened.append(ErasureConnector(children, Options(k=k, m=m, small=1024, **how)))
    return _opened[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Imported by each module that uses `over`."""
    with patch.object(restoring, "_AFTER", 0.01):
        yield
    while _opened:
        _opened.pop().close()
