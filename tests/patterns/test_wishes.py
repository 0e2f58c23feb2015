"""What annotations ask for, in whichever way they are written; all are text here, as the line below has it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np

from proxyfab import Store, is_proxy
from proxyfab.patterns import ByRef, ByValue, ProxyExecutor, proxied
from proxyfab.patterns.wishes import REF, VALUE, Wishes

if TYPE_CHECKING:
    from nowhere import Unknown

Image = Annotated[np.ndarray, ByRef]
Mask = Annotated[np.ndarray, ByValue]


def written(
    alias: Image,
    maybe: Annotated[np.ndarray, ByRef] | None,
    optional: Optional[Mask],  # noqa: UP045 - as people write it
    either: Image | Mask,
    text: "Mask | None",  # noqa: UP037 - text of text
    unknown: Annotated[Unknown, ByRef] | None,
    plain: np.ndarray | None,
    inner: list[Image],
) -> Mask | None: ...


def test_however_they_are_written() -> None:
    wishes = Wishes(written)
    assert wishes.any
    assert wishes.of("alias") == wishes.of(0) == REF
    assert wishes.of("maybe") == REF
    assert wishes.of("optional") == VALUE
    assert wishes.of("either") == REF, "the first that says something"
    assert wishes.of("text") == VALUE
    assert wishes.of("unknown") == REF
    assert wishes.of("plain") is None
    assert wishes.of("inner") is None, "of the list nothing is said"
    assert wishes.result == VALUE


def kinds(a: Annotated[Any, ByRef], *rest: Annotated[Any, ByRef], b: Annotated[Any, ByRef] = None) -> list[bool]:
    return [is_proxy(value) for value in (a, *rest, b)]


def test_numbers_travel_by_reference_where_that_is_asked_for() -> None:
    with Store("memory://") as store:
        assert proxied(store)(kinds)(1.5, 2, 1j, None, True, b=2.5) == [True, True, True, False, False, True]
        with ProxyExecutor(ThreadPoolExecutor(1), store) as executor:
            assert executor.submit(kinds, 1.5).result(20) == [True, False]
