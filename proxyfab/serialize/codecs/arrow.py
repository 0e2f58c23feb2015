"""Arrow tables, batches and arrays as one IPC stream: written once into memory of its exact size, read without a copy.

In the default mode only slices come here: pickle sends Arrow's buffers without any copy, but a slice's whole parent.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from proxyfab.serialize.codec import Codec, Parts

_MOSTLY = 0.9
_LARGE = 1 << 16


def to_stream(source: Any) -> Any:
    """A Table or RecordBatch as an Arrow IPC stream, in one buffer. The one copy that a stream costs."""
    size = pa.MockOutputStream()
    _write(source, size)
    buffer = pa.allocate_buffer(size.size())
    _write(source, pa.FixedSizeBufferWriter(buffer))
    return buffer


def _write(source: Any, sink: Any) -> None:
    with pa.ipc.new_stream(sink, source.schema) as writer:
        writer.write(source)


def from_stream(view: memoryview) -> Any:
    """The Table in an IPC stream, over the view. Offsets are checked, since a wrong one would crash the process."""
    table = pa.ipc.open_stream(pa.py_buffer(view)).read_all()
    table.validate(full=True)
    return table


class _Arrow:
    name = "arrow"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        if isinstance(obj, pa.Table):
            return "table", (to_stream(obj),)
        if isinstance(obj, pa.RecordBatch):
            return "batch", (to_stream(obj),)
        if isinstance(obj, pa.ChunkedArray):
            return "chunked", (to_stream(pa.table([obj], names=[""])),)
        return "array", (to_stream(pa.record_batch([obj], names=[""])),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        table = from_stream(view)
        if meta == "table":
            return table
        if meta == "chunked":
            return table.column(0)
        batches = table.to_batches()
        batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        return batch if meta == "batch" else batch.column(0)


class _Sliced(_Arrow):
    def dump(self, obj: Any, /) -> Parts | None:
        whole = obj.get_total_buffer_size()
        return super().dump(obj) if whole > _LARGE and obj.nbytes < _MOSTLY * whole else None


CODECS: dict[str, Codec] = {"arrow": _Arrow(), "arrow.sliced": _Sliced()}
