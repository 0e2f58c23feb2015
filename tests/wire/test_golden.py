"""Objects written by every wire version so far are read, and the current version still writes the same bytes."""

import re
from pathlib import Path

import numpy as np
import pytest

from proxyfab.buffers import Frames
from proxyfab.serialize import loads
from proxyfab.wire.payload import VERSION, decode
from tests.golden.make_golden import OBJECTS, encoded

FILES = sorted((Path(__file__).parents[1] / "golden").glob("v*.bin"))


def content(obj):
    """What can be compared with `==`: arrays as type, dtype, mask and bytes."""
    if isinstance(obj, np.ndarray):
        mask = np.ma.getmaskarray(obj).tobytes()
        return type(obj), obj.dtype, obj.flags.f_contiguous, mask, obj.tobytes()
    if isinstance(obj, dict):
        return type(obj), {key: content(value) for key, value in obj.items()}
    return type(obj), obj


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_object_is_read(path):
    version, name = re.fullmatch(r"v(\d+)-(\w+)", path.stem).groups()
    assert int(version) <= VERSION
    mode, obj = OBJECTS[name]
    payload = decode(Frames([path.read_bytes()]))
    assert payload.origin == "golden"
    assert content(loads(payload, mode=mode)) == content(obj)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_format_did_not_change_without_a_new_version(name):
    written = next(path for path in FILES if path.stem == f"v{VERSION}-{name}").read_bytes()
    if name == "pickle":  # the stream is the standard library's and NumPy's, and may differ; the layout may not
        assert decode(Frames([written])).codec == decode(Frames([encoded(name)])).codec
    else:
        assert encoded(name) == written
