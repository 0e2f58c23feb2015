"""What a user may choose, from arguments and from Dask's own configuration (`proxyfab.dask.*`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.spec import nbytes

RESULTS = ("transport", "store")


class Settings(NamedTuple):
    """Of one client.

    Attributes:
        store: URL of the store for large objects; None for shared memory that the scheduler's process owns.
        above: How large an object is, in bytes, that travels by reference.
        lazy: Whether tasks get proxies in place of real objects.
        results: `"transport"`: results stay in the memory of Dask's workers. `"store"`: they go to the store.
        enabled: Whether anything of this is done.
    """

    store: str | None = None
    above: int = 1 << 20
    lazy: bool = False
    results: str = "transport"
    enabled: bool = True


def settings(
    store: str | None = None,
    above: int | str | None = None,
    lazy: bool | None = None,
    results: str | None = None,
) -> Settings:
    """From arguments, and for those that are None from Dask's configuration.

    Raises:
        ConfigurationError: Something makes no sense.
    """
    import dask

    def chosen(name: str, value: Any) -> Any:
        return dask.config.get(f"proxyfab.dask.{name}", getattr(_DEFAULT, name)) if value is None else value

    kind = chosen("results", results)
    if kind not in RESULTS:
        raise ConfigurationError(f"results can be {' or '.join(map(repr, RESULTS))}, not {kind!r}.")
    size = nbytes(chosen("above", above))
    return Settings(chosen("store", store), size, chosen("lazy", lazy), kind, chosen("enabled", None))


_DEFAULT = Settings()
