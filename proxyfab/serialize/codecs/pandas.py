"""pandas by way of Arrow, for safe mode; the default mode pickles, which keeps everything and copies nothing large.

A frame that Arrow would bring back with another type of column, or another name of its index, is refused, not changed.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from proxyfab.errors import SerializationError
from proxyfab.serialize.codec import Codec, Parts
from proxyfab.serialize.codecs.arrow import from_stream, to_stream

_UNNAMED = "\0"


class _Pandas:
    name = "pandas"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        if isinstance(obj, pd.Series):
            if obj.name is not None and not isinstance(obj.name, str):
                raise SerializationError(f"Safe mode keeps only text as the name of a Series, not {obj.name!r}.")
            return ["series", obj.name, *_frequency(obj)], (to_stream(_table(obj.to_frame(_UNNAMED))),)
        return ["frame", None, *_frequency(obj)], (to_stream(_table(obj)),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        frame = from_stream(view).to_pandas()
        kind, name, *frequency = meta
        if frequency:
            if not isinstance(frame.index, pd.DatetimeIndex | pd.TimedeltaIndex):
                raise ValueError("a frequency, and no index of times")
            frame.index.freq = frequency[0]  # pandas refuses one that the index has not
        return frame if kind == "frame" else frame[_UNNAMED].rename(name)


def _frequency(obj: Any) -> list[str]:
    """The frequency of an index that has one, which Arrow knows nothing of; a period's is its type."""
    found = obj.index.freq if isinstance(obj.index, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    if found is None:
        return []
    if pd.tseries.frequencies.to_offset(found.freqstr) != found:
        raise SerializationError(
            f"Safe mode cannot keep the index's frequency {found!r}: set index.freq to None, or use the default mode."
        )
    return [found.freqstr]


def _table(frame: Any) -> Any:
    unnamed = [name for name in frame.index.names if name is not None and not isinstance(name, str)]
    if unnamed:
        raise SerializationError(
            f"Arrow would rename the index {unnamed[0]!r}: name it by text, or use the default mode."
        )
    table = pa.Table.from_pandas(frame)
    back = table.slice(0, 0).to_pandas()
    if not back.columns.equals(frame.columns):
        raise SerializationError("Arrow would rename these columns: make their names text, or use the default mode.")
    for column, (before, after) in enumerate(zip(frame.dtypes, back.dtypes, strict=True)):
        if before != after:
            raise SerializationError(
                f"Arrow would bring column {frame.columns[column]!r} back as {after} instead of {before}; convert it, "
                f"or use the default mode."
            )
    return table


CODECS: dict[str, Codec] = {"pandas": _Pandas()}
