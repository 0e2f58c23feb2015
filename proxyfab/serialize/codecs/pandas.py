"""pandas by way of Arrow, for safe mode; the default mode pickles, which keeps everything and copies nothing large.

A frame that Arrow would bring back with another type of column is refused, not changed.
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
            return ["series", obj.name], (to_stream(_table(obj.to_frame(_UNNAMED))),)
        return ["frame", None], (to_stream(_table(obj)),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        frame = from_stream(view).to_pandas()
        kind, name = meta
        return frame if kind == "frame" else frame[_UNNAMED].rename(name)


def _table(frame: Any) -> Any:
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
