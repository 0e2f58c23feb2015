"""Which codec serves a type, and which one reads a payload: built in, registered, or from an entry point.

Rules:
1. A type is known by its exact name. A subclass is another type and goes to pickle, which keeps it what it is.
2. A payload's codec is a word, never an import path: bytes from elsewhere cannot choose what this process imports.
3. Nothing is imported before one of its objects, or one of its payloads, is met.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from proxyfab.errors import ConfigurationError, MissingDependency, SerializationError
from proxyfab.serialize import builtin
from proxyfab.serialize.codec import Codec

_MODULES = {  # codec -> its module and the package it needs
    "arrow": ("proxyfab.serialize.codecs.arrow", "pyarrow"),
    "arrow.sliced": ("proxyfab.serialize.codecs.arrow", "pyarrow"),
    "numpy": ("proxyfab.serialize.codecs.numpy", "numpy"),
    "numpy.masked": ("proxyfab.serialize.codecs.masked", "numpy"),
    "numpy.scalar": ("proxyfab.serialize.codecs.numpy", "numpy"),
    "pandas": ("proxyfab.serialize.codecs.pandas", "pandas pyarrow"),
    "plain": ("proxyfab.serialize.codecs.plain", "msgpack"),
    "polars": ("proxyfab.serialize.codecs.polars", "polars"),
    "torch": ("proxyfab.serialize.codecs.torch", "torch"),
}
_TYPES = {
    "numpy:ndarray": "numpy",
    "numpy.ma:MaskedArray": "numpy.masked",
    "numpy.ma.core:MaskedArray": "numpy.masked",
    "pyarrow.lib:Table": "arrow.sliced",
    "pyarrow.lib:RecordBatch": "arrow.sliced",
    "pyarrow.lib:ChunkedArray": "arrow.sliced",
    "polars.dataframe.frame:DataFrame": "polars",
    "polars.series.series:Series": "polars",
    "torch:Tensor": "torch",
    "torch.nn.parameter:Parameter": "torch",
}
_SAFE_TYPES = {
    **dict.fromkeys(
        [
            *("builtins:NoneType", "builtins:bool", "builtins:int", "builtins:float", "builtins:complex"),
            *("builtins:list", "builtins:tuple", "builtins:dict", "builtins:set", "builtins:frozenset"),
            *("datetime:date", "datetime:datetime", "datetime:timedelta"),
        ],
        "plain",
    ),
    "pyarrow.lib:Table": "arrow",
    "pyarrow.lib:RecordBatch": "arrow",
    "pyarrow.lib:ChunkedArray": "arrow",
    "pandas:DataFrame": "pandas",
    "pandas:Series": "pandas",
    "pandas.core.frame:DataFrame": "pandas",
    "pandas.core.series:Series": "pandas",
}
_by_name: dict[str, Codec] = {codec.name: codec for codec in builtin.CODECS.values()}
_registered: dict[str, Codec] = {}
_points: dict[str, Any] | None = None
MODES: dict[str, dict[type, tuple[Codec | None, str]]] = {"default": {}, "safe": {}}
"""What was found for each type so far, per mode: its codec, None for pickle, and the type's name."""
_REMEMBERED = 4096


def find(kind: type, mode: str) -> tuple[Codec | None, str]:
    """The codec for a type, None for pickle (or, in safe mode, for a refusal), and the type's name."""
    if mode not in MODES:
        raise ConfigurationError(f"There is no serializer {mode!r}; choose one of {', '.join(MODES)}.")
    name = f"{kind.__module__}:{kind.__qualname__}"
    codec = _of_type(kind, name, mode)
    if codec is not None and mode == "safe" and not codec.safe:
        codec = None
    known = MODES[mode]
    if len(known) >= _REMEMBERED:
        known.clear()  # classes made on the fly: let them go
    known[kind] = codec, name
    return codec, name


def _of_type(kind: type, name: str, mode: str) -> Codec | None:
    codec = _registered.get(name) or builtin.CODECS.get(name)
    if codec is not None:
        return codec
    safe = mode == "safe"
    short = (_SAFE_TYPES.get(name) if safe else None) or _TYPES.get(name) or _of_family(kind, safe)
    if short is not None:
        try:
            return named(short)
        except MissingDependency:  # pandas without pyarrow: what else the mode allows decides
            return None
    return _plugin(name.replace(":", "."), kind)


def _of_family(kind: type, safe: bool) -> str | None:
    """Types that come in families: NumPy's scalars and Arrow's arrays."""
    if kind.__module__ == "numpy" and any(base.__qualname__ == "generic" for base in kind.__mro__[1:]):
        return "numpy.scalar"
    if kind.__module__ == "pyarrow.lib" and kind.__qualname__.endswith("Array"):
        return "arrow" if safe else "arrow.sliced"
    return None


def named(name: str) -> Codec:
    """The codec that a payload names.

    Raises:
        SerializationError: Nothing here reads it.
        MissingDependency: It needs a package that is not installed.
    """
    codec = _by_name.get(name)
    if codec is None:
        codec = _imported(name) if name in _MODULES else _plugin(name)
        if codec is None:
            raise SerializationError(
                f"No codec {name!r} is known here: install the package that provides it, or register() it."
            )
        _by_name[name] = codec
    return codec


def _imported(name: str) -> Codec:
    module, needs = _MODULES[name]
    try:
        found: Codec = importlib.import_module(module).CODECS[name]
    except ImportError as error:
        raise MissingDependency(
            f"An object of codec {name!r} needs the package {error.name!r}, which is not installed: pip install {needs}"
        ) from error
    return found


def _plugin(name: str, kind: type | None = None) -> Codec | None:
    """The codec that an installed package offers under a type's dotted name (which is also the codec's)."""
    if kind is not None and kind.__module__.partition(".")[0] in _NO_PLUGINS:
        return None
    global _points
    if _points is None:
        from importlib.metadata import entry_points  # 15 ms: only for types and codecs of other packages

        _points = {point.name: point for point in entry_points(group="proxyfab.serializers")}
    point = _points.get(name)
    if point is None:
        return None
    found = point.load()
    codec: Codec = found() if isinstance(found, type) else found
    _by_name[codec.name] = codec
    return codec


_NO_PLUGINS = {"__main__", "numpy", "pandas", "proxyfab", "pyarrow", "polars", "torch", *sys.stdlib_module_names}


def register(type_name: str, codec: Codec) -> None:
    """Serialize objects of exactly this type with `codec`, in this process; readers must register it too.

    Args:
        type_name: `"module:qualname"` of the type, which need not be imported.
        codec: Writes and reads it. Its name must not be a built-in codec's.

    Raises:
        ConfigurationError: A name makes no sense.
    """
    module, _, qualname = type_name.partition(":")
    if not module or not qualname:
        raise ConfigurationError(f"{type_name!r} does not name a type; write it as 'package.module:Class'.")
    if codec.name in _MODULES or codec.name in _BUILT_IN:
        raise ConfigurationError(f"The codec name {codec.name!r} is taken by proxyfab; choose another.")
    _registered[type_name] = _by_name[codec.name] = codec
    for known in MODES.values():
        known.clear()


_BUILT_IN = frozenset([*_by_name, "pickle", "cloudpickle"])
