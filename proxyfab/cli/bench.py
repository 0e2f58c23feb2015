"""`bench`: how fast a store is on this machine, another process reading, beside one memcpy."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import click
from rich.progress import track

from proxyfab.buffers import Frames
from proxyfab.cli.output import as_json, show, show_json, size, store_url
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.osio.memory import allocate
from proxyfab.spec import ConnectorSpec, nbytes
from proxyfab.store import Store, open_store

_READER = """
import sys, time, pickle
while True:
    line = sys.stdin.buffer.readline()
    if not line: break
    ref = pickle.loads(bytes.fromhex(line.decode()))
    start = time.perf_counter()
    view = ref.resolve()
    seconds = time.perf_counter() - start
    del view
    print(seconds, flush=True)
"""


@click.command()
@store_url
@click.option("--sizes", default="1 KB,100 KB,10 MB,100 MB", show_default=True, help="Object sizes, comma-separated.")
@click.option(
    "--rounds",
    default=9,
    type=click.IntRange(min=1),
    show_default=True,
    help="Measurements per size; medians are shown.",
)
@as_json
def bench(url: str, sizes: str, rounds: int, as_json: bool) -> None:
    """Measure put here and get in another process, per object size, beside one memcpy into warm memory."""
    wanted = [nbytes(text) for text in sizes.split(",")]
    if ConnectorSpec.parse(url).scheme == "memory":
        raise ConfigurationError(f"{url} is the memory of one process, and another one is to read here: use shm://.")
    with Store(url, inline_below=0, cache=0) as store, _Reader() as reader:
        open_store(store.url)
        work = track(wanted, description="measuring", transient=True, disable=not sys.stderr.isatty())
        rows = [_measure(store, reader, length, rounds) for length in work]
    columns = ("bytes", "memcpy_seconds", "put_seconds", "get_seconds")
    if as_json:
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        show_json({"store": store.url, "rounds": rounds, "rows": named})
        return
    cells = [(size(length), *map(_time, times)) for length, *times in rows]
    show(("size", "memcpy", "put", "get elsewhere"), cells, title=f"{store.url}, medians of {rounds}")


class _Reader:
    """A second process that resolves what it is sent and answers with the seconds it took."""

    def __enter__(self) -> _Reader:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self, pickled: bytes) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(pickled.hex() + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ConnectorError("The reading process of the benchmark ended early; its message stands above.")
        return float(answer)


def _measure(store: Store, reader: _Reader, length: int, rounds: int) -> tuple[int, float, float, float]:
    import pickle

    block = allocate(length)
    target = allocate(length)
    source = Frames([block])
    copies, puts, gets = [], [], []
    for _ in range(rounds + 1):
        copies.append(_seconds(lambda: source.copy_into(target)))
        start = time.perf_counter()
        ref = store.ref(block, once=True)
        puts.append(time.perf_counter() - start)
        gets.append(reader.seconds(pickle.dumps(ref)))
        ref.evict()
    memcpy, put, get = (statistics.median(times[1:]) for times in (copies, puts, gets))  # the first round warms up
    return length, memcpy, put, get


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
