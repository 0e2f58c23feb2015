"""NumPy's masked arrays. A module of its own, because `numpy.ma` takes longer to import than most arrays to send."""

from __future__ import annotations

from typing import Any

import numpy as np

from proxyfab.serialize.codec import Codec, Parts
from proxyfab.serialize.codecs.numpy import dump_array, load_array


class _Masked:
    """Data, mask and fill value each as they are. The mask is shared as NumPy shares it, so writing needs a copy."""

    name = "numpy.masked"
    safe = True
    _ORDINARY = frozenset(np.ma.array([0]).__dict__)

    def dump(self, obj: Any, /) -> Parts | None:
        state = obj.__dict__
        if state["_baseclass"] is not np.ndarray or state["_optinfo"] or state.keys() - self._ORDINARY:
            return None
        data = dump_array(obj.data)
        mask = None if obj.mask is np.ma.nomask else dump_array(np.asarray(obj.mask))
        fill = None if state["_fill_value"] is None else dump_array(np.asarray(state["_fill_value"]))
        if data is None:
            return None
        parts = [part for part in (data, mask, fill) if part is not None]
        meta = [data[0], mask and mask[0], fill and fill[0], bool(obj.hardmask)]
        return meta, [part[1] for part in parts]

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        *described, hard = meta
        views = iter(buffers)
        data, mask, fill = (None if each is None else load_array(each, next(views)) for each in described)
        if data is None or (mask is not None and mask.shape != data.shape):
            raise ValueError("the mask has another shape than the data")
        array = np.ma.MaskedArray(data, mask=np.ma.nomask if mask is None else mask, hard_mask=bool(hard), copy=False)
        if fill is not None:
            array.fill_value = fill
        return array


CODECS: dict[str, Codec] = {"numpy.masked": _Masked()}
