"""Writes the golden files: objects as each wire version laid them out. Run it after a format change.

From the root: `python -m tests.golden.make_golden`.

Files of the current version are added where they are missing. One that exists is never written again: it stands for
objects that lie in somebody's store.
"""

from __future__ import annotations

import datetime
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from proxyfab.serialize import dumps
from proxyfab.wire.payload import VERSION, Payload, encode

HERE = Path(__file__).parent
_ARRAY = (np.arange(600, dtype="<f4") / 8).reshape(20, 30)
OBJECTS: dict[str, tuple[str, Any]] = {  # name -> (mode, object)
    "bytes": ("default", b"golden" * 20),
    "str": ("default", "gölden"),
    "array": ("default", _ARRAY),
    "fortran": ("default", np.asfortranarray(_ARRAY)),
    "record": ("default", np.zeros(3, [("a", "<i2"), ("b", ">f8", (2,))])),
    "dates": ("default", np.arange("2020-01-01", "2020-02-01", dtype="<M8[D]")),
    "masked": ("default", np.ma.array(_ARRAY, mask=_ARRAY > 70, fill_value=-1.0)),
    "scalar": ("default", np.float32(1.5)),
    "pickle": ("default", OrderedDict(pixels=_ARRAY, tags=("a", 1, None))),
    "plain": (
        "safe",
        {"a": (1, 2**70, {3.5}), "t": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "pixels": _ARRAY},
    ),
}


def encoded(name: str, *, checksum: bool = True) -> bytes:
    """The current wire form of a golden object, written by a host of a fixed name."""
    mode, obj = OBJECTS[name]
    payload = dumps(obj, mode=mode)
    named = Payload(payload.codec, payload.type, payload.meta, payload.buffers, "golden")
    return encode(named, checksum=checksum).tobytes()


def main() -> None:
    """Write what is missing."""
    for name in OBJECTS:
        path = HERE / f"v{VERSION}-{name}.bin"
        if not path.exists():
            path.write_bytes(encoded(name))


if __name__ == "__main__":
    main()
