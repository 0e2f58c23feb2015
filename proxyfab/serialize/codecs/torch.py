"""torch tensors on the CPU, of any dtype. They come back in memory of their own, since torch has no read-only tensors.

Left to pickle: other devices, sparse, quantized, nested and lazily conjugated tensors, results inside a graph, and
tensors with attributes. The order of dimensions in memory is kept (transposed, channels last); a tensor with gaps or
overlaps is copied once, and comes back lying in a row.
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
        bare, order = obj.detach(), _order(obj)
        flat = (bare.permute(order) if order else bare).contiguous().reshape(-1).view(torch.uint8)
        meta = [
            str(obj.dtype).removeprefix("torch."),
            list(obj.shape),
            obj.requires_grad,
            type(obj) is torch.nn.Parameter,
        ]
        return [*meta, order] if order else meta, (flat.numpy(),)

    def load(self, meta: Any, buffers: tuple[memoryview, ...], /) -> object:
        (view,) = buffers
        name, shape, requires_grad, parameter, *order = meta
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or math.prod(shape) * dtype.itemsize != view.nbytes:
            raise ValueError(f"{view.nbytes} bytes are not a tensor of shape {shape} and type {name!r}")
        if order and sorted(order[0]) != list(range(len(shape))):
            raise ValueError(f"{order[0]} is no order of {len(shape)} dimensions")
        tensor = torch.empty([shape[at] for at in order[0]] if order else shape, dtype=dtype)
        # The one copy: into memory that may be written.
        tensor.reshape(-1).view(torch.uint8).numpy()[:] = np.frombuffer(view, np.uint8)
        if order:
            tensor = tensor.permute([order[0].index(at) for at in range(len(shape))])
        return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


def _order(tensor: Any) -> list[int] | None:
    """Its dimensions, from the one of the longest stride on, if it lies densely in that order and not in its own."""
    if tensor.is_contiguous():
        return None
    order = sorted(range(tensor.dim()), key=lambda at: (-tensor.stride(at), at))
    return order if tensor.permute(order).is_contiguous() else None


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
