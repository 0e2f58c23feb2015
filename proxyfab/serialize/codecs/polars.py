"""polars frames and series as an uncompressed IPC file, which keeps every polars type. One copy out, one copy in."""

from __future__ import annotations

import io
from typing import Any

import polars as pl

from proxyfab.serialize.codec import Codec, Parts


class _Polars:
    name = "polars"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        series = isinstance(obj, pl.Series)
        frame = obj.to_frame() if series else obj
        if any(dtype == pl.Object for dtype in frame.dtypes):
            return None
        out = io.BytesIO()
        frame.write_ipc(out, compression="uncompressed", compat_level=pl.CompatLevel.newest())
        return "series" if series else "frame", (out.getbuffer(),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        frame = pl.read_ipc(io.BytesIO(view))  # copies: polars reads files and bytes, not views
        return frame.to_series(0) if meta == "series" else frame


CODECS: dict[str, Codec] = {"polars": _Polars()}
