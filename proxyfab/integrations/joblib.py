"""joblib's Dask backend, whose large arguments travel by reference: `backend="proxyfab"` after `register()`.

joblib's own scatters every argument of more than a kilobyte to a worker, from where others fetch it. Here those that a
client of `proxyfab.integrations.dask` takes for large are left to it; all others go as ever, and so does everything
where the client is a plain one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from proxyfab.errors import MissingDependency

try:
    from joblib import register_parallel_backend
    from joblib._dask import DaskDistributedBackend
except ImportError as error:
    raise MissingDependency("This door needs joblib and Dask: pip install joblib 'proxyfab[dask]'") from error

from proxyfab.integrations.dask.sizes import NOT_ALONE, size_of

NAME = "proxyfab"


def register() -> None:
    """Have joblib know the backend "proxyfab"."""
    register_parallel_backend(NAME, Backend)


class _Spared:
    """Around an argument that joblib is not to scatter: it does so with what can be referred to weakly."""

    __slots__ = ("it",)

    def __init__(self, it: Any) -> None:
        self.it = it


class Backend(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
    """joblib's, but for what becomes of large arguments. Its own arguments are those of `backend="dask"`."""

    def __reduce__(self) -> tuple[type[Backend], tuple[()]]:
        return Backend, ()

    def get_nested_backend(self) -> tuple[Backend, int]:
        return Backend(client=self.client), -1

    async def _to_func_args(self, func: Any) -> Any:
        link = getattr(self.client, "_proxyfab", None)
        if link is None or link.keeping is None or not link.wanted():
            return await super()._to_func_args(func)
        above = link.settings.above
        hidden = [
            (call, [self._hidden(each, above) for each in args], {k: self._hidden(v, above) for k, v in named.items()})
            for call, args, named in func.items
        ]
        batch, tasks = await super()._to_func_args(SimpleNamespace(items=hidden))
        return batch, [
            (call, [_shown(each) for each in args], {name: _shown(each) for name, each in named.items()})
            for call, args, named in tasks
        ]

    def _hidden(self, arg: Any, above: int) -> Any:
        if id(arg) in self.data_futures:  # the user had it scattered
            return arg
        size = NOT_ALONE if type(arg) in (list, tuple, dict) else size_of(arg, above)
        return _Spared(arg) if size >= above else arg


def _shown(arg: Any) -> Any:
    return arg.it if type(arg) is _Spared else arg
