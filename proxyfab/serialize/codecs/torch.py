"""torch tensors on the CPU, of any dtype. They come back in memory of their own, since torch has no read-only tensors.

Left to pickle: other devices, sparse, quantized, nested and lazily conjugated tensors, results inside a graph, and
tensors with attributes. A tensor that does not lie in a row is copied once, and comes back lying in one.
"""

from __future__ import annotations

import math
from pickle import PickleBuffer
from typing import Any

import numpy as np
import torch

from proxyfab.buffers import Buffer, byte_view
from proxyfab.serialize.codec import Codec, Parts


class _Tensor:
    name = "torch"
    safe = True

    def dump(self, obj: Any, /) -> Parts | None:
        if obj.device.type != "cpu" or obj.layout != torch.strided or obj.is_quantized or obj.is_nested:
            return None
        if not obj.is_leaf or obj.is_conj() or obj.is_neg() or obj.__dict__:
            return None
        flat = obj.detach().contiguous().reshape(-1).view(torch.uint8)
        parameter = type(obj) is torch.nn.Parameter
        return [str(obj.dtype).removeprefix("torch."), list(obj.shape), obj.requires_grad, parameter], (flat.numpy(),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        name, shape, requires_grad, parameter = meta
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or math.prod(shape) * dtype.itemsize != view.nbytes:
            raise ValueError(f"{view.nbytes} bytes are not a tensor of shape {shape} and type {name!r}")
        tensor = torch.empty(shape, dtype=dtype)
        # The one copy: into memory that may be written.
        tensor.reshape(-1).view(torch.uint8).numpy()[:] = np.frombuffer(view, np.uint8)
        return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


_TENSOR = _Tensor()


def _reduce(tensor: Any) -> Any:
    """How pickle takes a tensor inside another object: its memory as a buffer, out of band when it is large."""
    parts = _TENSOR.dump(tensor)
    if parts is None:
        return tensor.__reduce_ex__(5)
    meta, (data,) = parts
    return rebuild, (meta, PickleBuffer(data))


def rebuild(meta: Any, data: Buffer) -> object:
    """The tensor that a pickle describes."""
    return _TENSOR.load(meta, (byte_view(data),))


REDUCERS = {torch.Tensor: _reduce, torch.nn.Parameter: _reduce}
CODECS: dict[str, Codec] = {"torch": _TENSOR}
