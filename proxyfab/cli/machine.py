"""What `doctor` looks at whatever the store: the interpreter, packages, limits and memory of this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from proxyfab.abc import Finding
from proxyfab.cli.output import size
from proxyfab.proxy import core

_CODECS = ("numpy", "pandas", "pyarrow", "polars", "torch", "xarray")
_EXTRAS = (
    # extra, the package's name on PyPI, what it is for
    ("redis", "redis", "redis://"),
    ("zmq", "pyzmq", "zmq:// and serve"),
    ("seal", "cryptography", "seal="),
    ("lz4", "lz4", "lz4+"),
    ("zstd", "zstandard", "zstd+"),
    ("otel", "opentelemetry-api", "spans"),
    ("prometheus", "prometheus-client", "metrics"),
)
_FEW_FILES = 4096
_FEW_WATCHES = 128
_LITTLE_ROOM = 256 * 2**20


def examine_machine() -> Iterator[Finding]:
    """One finding for each thing, whether it is well or not; changes nothing."""
    yield from (_interpreter(), _proxies(), _codecs(), _packages(), _files(), _watches(), _pages(), _shared_memory())


def _interpreter() -> Finding:
    enough = sys.version_info >= (3, 11)
    return Finding("python", "ok" if enough else "fail", f"{platform.python_version()} on {platform.platform()}")


def _proxies() -> Finding:
    if core.compiled is not None:
        return Finding("proxies", "ok", "C core")
    return Finding("proxies", "ok", f"pure Python: {core.why_pure}")


def _codecs() -> Finding:
    here = [name for name in _CODECS if importlib.util.find_spec(name)]
    return Finding("codecs", "ok", f"for {', '.join(here)}" if here else "no scientific packages installed")


def _packages() -> Finding:
    found, missing = [], []
    for extra, package, purpose in _EXTRAS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(f"{package} for {purpose} (pip install 'proxyfab[{extra}]')")
    absent = f"not installed: {', '.join(missing)}" if missing else ""
    return Finding("packages", "ok", "; ".join(filter(None, (", ".join(found), absent))))


def _files() -> Finding:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files >= _FEW_FILES
    hint = "" if enough else f"; large objects read at once are bounded by it, raise it with `ulimit -n {_FEW_FILES}`"
    return Finding("open files", "ok" if enough else "warn", f"limit {files}{hint}")


def _watches() -> Finding:
    watches = _read("/proc/sys/fs/inotify/max_user_instances")
    enough = watches.isdigit() and int(watches) >= _FEW_WATCHES
    hint = "" if enough else f"; raise it with `sysctl fs.inotify.max_user_instances={_FEW_WATCHES}`"
    detail = f"{watches or 'no'} instances a user; without one, waiting polls{hint}"
    return Finding("inotify", "ok" if enough else "warn", detail)


def _pages() -> Finding:
    pages = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    huge = "[never]" not in pages and pages != ""
    off = (
        "off: receiving large objects into fresh memory is up to 5 times slower; "
        "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` as root allows them"
    )
    return Finding("huge pages", "ok" if huge else "warn", "granted on request" if huge else off)


def _shared_memory() -> Finding:
    if not os.path.isdir("/dev/shm"):
        return Finding("/dev/shm", "warn", "missing; shm:// falls back to the temporary directory")
    free = shutil.disk_usage("/dev/shm").free
    enough = free > _LITTLE_ROOM
    hint = "" if enough else "; large objects may find no room: `proxyfab gc`, or --shm-size where a container runs"
    return Finding("/dev/shm", "ok" if enough else "warn", f"{size(free)} free{hint}")


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
