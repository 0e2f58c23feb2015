"""Which bytes of a serialized object are its rows: of bytes-like objects each byte, of arrays the first axis.

Promises: what is made of some rows is what indexing the whole would give, in the type of the whole. Leaves to the
codecs, which read the part as if it were all, to check that bytes and description fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from proxyfab.errors import ConfigurationError

Selection: TypeAlias = "slice | range | Sequence[slice | range | tuple[int, int]]"
"""What of an object: a range or a stride, as Python writes them; or several, one behind the other."""


class Rows(NamedTuple):
    """How an object of one buffer is made of rows.

    Attributes:
        total: How many.
        nbytes: Bytes of each.
        meta: What its codec needs to read so many of them.
    """

    total: int
    nbytes: int
    meta: Callable[[int], Any]

    def shape(self, count: int) -> tuple[int, ...]:
        """The shape of so many of them."""
        meta = self.meta(count)
        return (count,) if meta is None else tuple(meta[1])


def rows_of(codec: str, meta: Any, sizes: Sequence[int]) -> Rows | None:
    """The rows of what a codec wrote; None if they do not lie one behind the other in one buffer."""
    reader = _ROWS.get(codec)
    return None if reader is None or len(sizes) != 1 else reader(meta, sizes[0])


def ranges_of(selection: Selection, count: int) -> list[range]:
    """A selection as ranges of row numbers, cut at the ends as Python cuts slices.

    Raises:
        ConfigurationError: It is no selection, or runs backwards.
    """
    if isinstance(selection, slice | range):
        return [_range(selection, count)]
    if isinstance(selection, list | tuple):
        return [_range(_as_slice(each), count) for each in selection]
    raise ConfigurationError(_what(selection))


def _as_slice(each: object) -> slice | range:
    if isinstance(each, slice | range):
        return each
    if isinstance(each, tuple | list) and len(each) == 2:
        return slice(*each)
    raise ConfigurationError(_what(each))


def _range(each: slice | range, count: int) -> range:
    if isinstance(each, range):
        if each.step > 0 and (each.start < 0 or each.stop < 0):
            raise ConfigurationError(f"{each} counts from the end: say so by a slice.")
        each = slice(each.start, each.stop, each.step)
    try:
        found = range(*each.indices(count))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(_what(each)) from error
    if found.step < 0:
        raise ConfigurationError(f"{each} runs backwards: select forwards, and turn round what arrives.")
    return found


def _what(each: object) -> str:
    return (
        f"{each!r} selects nothing of an object: say slice(0, 100), slice(None, None, 10), range(0, 100, 10) or a list "
        "of such, None for nothing, or ... for everything."
    )


# -- codecs --------------------------------------------------------------------------------------------------------


def _flat(_: Any, nbytes: int) -> Rows:
    return Rows(nbytes, 1, lambda _: None)


def _shaped(meta: Any, nbytes: int, place: int = 1) -> Rows | None:
    """Of those that keep a shape, in C order, in their metadata."""
    shape = list(meta[place])
    if not shape:
        return None
    count = shape[0]

    def described(wanted: int) -> Any:
        changed = list(meta)
        changed[place] = [wanted, *shape[1:]]
        return changed

    return Rows(count, nbytes // count if count else 0, described)


def _array(meta: Any, nbytes: int) -> Rows | None:
    return None if meta[2] and len(meta[1]) > 1 else _shaped(meta, nbytes)  # Fortran: rows do not lie in a row


def _tensor(meta: Any, nbytes: int) -> Rows | None:
    return _shaped(meta, nbytes) if len(meta) == 4 else None  # else its dimensions lie in another order


def _view(meta: Any, nbytes: int) -> Rows | None:
    return _shaped(meta, nbytes) if 0 not in meta[1] else None


_ROWS: dict[str, Callable[[Any, int], Rows | None]] = {
    "bytes": _flat,
    "bytearray": _flat,
    "memoryview": _view,
    "numpy": _array,
    "torch": _tensor,
}
