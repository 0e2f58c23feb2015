"""`doctor`: what this machine and a store's place allow, what is wrong, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

from proxyfab.cli.output import as_json, show, show_json, size, store_url
from proxyfab.errors import ProxyfabError
from proxyfab.spec import ConnectorSpec, StoreSpec
from proxyfab.store import Store

_OPTIONAL = ("numpy", "pandas", "pyarrow", "polars", "torch", "xarray")
_FEW_FILES = 4096
_LITTLE_ROOM = 256 * 2**20


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    state: str
    """`ok`, `warn` or `fail`."""
    detail: str


@click.command()
@store_url
@as_json
def doctor(url: str, as_json: bool) -> None:
    """Check this machine and a store's place. Exit status 1 when something is broken."""
    found = [*_interpreter(), *_limits(), *_memory(), *_round_trip(url)]
    if as_json:
        show_json([finding._asdict() for finding in found])
    else:
        show(("check", "state", "detail"), found)
    sys.exit(any(finding.state == "fail" for finding in found))


def _interpreter() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "fail", f"{version} on {platform.platform()}")
    yield Finding("proxy core", "ok", "pure Python")
    here = [name for name in _OPTIONAL if importlib.util.find_spec(name)]
    yield Finding("codecs", "ok", f"for {', '.join(here)}" if here else "no scientific packages installed")


def _limits() -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files >= _FEW_FILES
    hint = "" if enough else f"; large objects read at once are bounded by it, raise it with `ulimit -n {_FEW_FILES}`"
    yield Finding("open files", "ok" if enough else "warn", f"limit {files}{hint}")
    watches = _read("/proc/sys/fs/inotify/max_user_instances")
    state = "ok" if int(watches or 0) >= 128 else "warn"
    yield Finding("inotify", state, f"{watches or 'no'} instances a user; without one, waiting polls")


def _memory() -> Iterator[Finding]:
    pages = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    huge = "[never]" not in pages and pages != ""
    detail = "granted on request" if huge else "off: receiving large objects into fresh memory is up to 5 times slower"
    yield Finding("huge pages", "ok" if huge else "warn", detail)
    if not os.path.isdir("/dev/shm"):
        yield Finding("/dev/shm", "warn", "missing; shm:// falls back to the temporary directory")
        return
    free = shutil.disk_usage("/dev/shm").free
    yield Finding("/dev/shm", "ok" if free > _LITTLE_ROOM else "warn", f"{size(free)} free")


def _round_trip(url: str) -> Iterator[Finding]:
    place = StoreSpec.parse(url).connector
    scheme = ConnectorSpec.parse(place).scheme
    try:
        with Store(place, inline_below=0) as store:
            steps: list[tuple[str, Callable[[], object]]] = []
            payload = os.urandom(2**20)
            started = time.perf_counter()
            key = store.put(payload, ttl=60)
            steps = [("get", lambda: store.get(key) == payload), ("evict", lambda: store.evict(key))]
            wrong = [name for name, step in steps if not step()]
            seconds = time.perf_counter() - started
    except ProxyfabError as error:
        yield Finding(scheme, "fail", str(error))
        return
    detail = f"put, get and evict of 1 MiB in {seconds * 1e3:.1f} ms at {store.connector.place}"
    yield Finding(scheme, "fail" if wrong else "ok", f"wrong answer to {', '.join(wrong)}" if wrong else detail)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
