"""Dask on two hosts: its own client beside proxyfab's, over 1 Gbit/s. As root: `python -m benchmarks.two_hosts`.

Two hosts are two network namespaces with shared memory of their own, joined by a pair of virtual interfaces that a
token bucket holds to the link's speed. Scheduler and one worker are on host A, a second worker on host B; the client is
on A, then on B. Each system has a cluster of its own, since ours changes how its workers talk; they are measured in
turns by one client process, which looks at every result.

Promises: all ends with this process; interfaces and mounts belong to namespaces, which go with their last process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.bench_dask import grown, nothing, reverse, use
from benchmarks.harness import Outcome, Row, interleaved, machine, row, timed
from benchmarks.pairs import ROOT
from benchmarks.payloads import KB, MB, size_name
from benchmarks.report import described, fill, table
from benchmarks.results import Results
from benchmarks.targets import seconds

SYSTEMS = ("dask", "proxyfab")
PAGE = ROOT / "docs" / "dask.md"
START, END = "<!-- two-hosts:start -->", "<!-- two-hosts:end -->"
ADDRESSES = {"A": "10.213.77.1", "B": "10.213.77.2"}
PORTS = {"dask": 28786, "proxyfab": 28787}
SMALL = 15
"""So many times as many rounds of what is small: what Dask's client says may wait 10 ms for what it said before."""
STARTS = 120.0
"""Seconds that processes have to start."""
UNTIL = ("setpriv", "--pdeathsig", "KILL")
Work = Callable[[Any, int], float]


class Host(NamedTuple):
    """A network namespace with shared memory of its own.

    Attributes:
        name: A or B.
        holder: The process that keeps the namespaces; it ends when its input does.
    """

    name: str
    holder: subprocess.Popen[str]

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A process on this host, which is killed when this one ends, however that ends."""
        inside = ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", f"--wd={ROOT}", *UNTIL]
        return subprocess.Popen([*inside, *command], text=True, **options)


@contextmanager
def host(name: str) -> Iterator[Host]:
    """A host without a link."""
    script = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && read -r _"
    inside = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(inside, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if holder.stdout is None or holder.stdout.readline() != "ready\n":
            raise click.ClickException("Network namespaces cannot be made here; this needs root, and Linux's tools.")
        yield Host(name, holder)  # then its input is closed, and with it the host


@contextmanager
def linked(mbit: int) -> Iterator[dict[str, Host]]:
    """Two hosts and the link between them."""
    with host("A") as one, host("B") as other:
        hosts = {"A": one, "B": other}
        ends = {name: f"pf{each.holder.pid}" for name, each in hosts.items()}
        _do("ip", "link", "add", ends["A"], "type", "veth", "peer", "name", ends["B"])
        for name, each in hosts.items():
            _do("ip", "link", "set", ends[name], "netns", str(each.holder.pid))
            inside = ("nsenter", "--target", str(each.holder.pid), "--net")
            _do(*inside, "ip", "address", "add", f"{ADDRESSES[name]}/24", "dev", ends[name])
            _do(*inside, "ip", "link", "set", ends[name], "up")
            bucket = ("tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "50ms")
            _do(*inside, "tc", "qdisc", "add", "dev", ends[name], "root", *bucket)
        yield hosts


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def cluster(hosts: dict[str, Host], system: str) -> Iterator[str]:
    """A scheduler and a worker on A, a worker on B; the scheduler's address."""
    address = f"tcp://{ADDRESSES['A']}:{PORTS[system]}"
    python = (sys.executable, "-m", "distributed.cli")
    module = {"scheduler": "dask_scheduler", "worker": "dask_worker"}
    with ExitStack() as stack:
        ask = ("--host", ADDRESSES["A"], "--port", str(PORTS[system]), "--no-dashboard")
        stack.enter_context(_running(hosts["A"], *python[:2], f"{python[2]}.{module['scheduler']}", *ask))
        for name, each in hosts.items():
            options = ("--name", name, "--host", ADDRESSES[name], "--nthreads", "1", "--no-nanny", "--no-dashboard")
            command = (*python[:2], f"{python[2]}.{module['worker']}", address, *options, "--memory-limit", "0")
            stack.enter_context(_running(each, *command))
        yield address


@contextmanager
def _running(host: Host, *command: str) -> Iterator[None]:
    process = host.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- what the client does --------------------------------------------------------------------------------------------


def _round_trip(worker: str) -> Work:
    def work(client: Any, nbytes: int) -> float:
        array = np.random.default_rng().random(nbytes // 8)

        def there_and_back() -> None:
            assert float(client.submit(grown, array, workers=[worker]).result()[-1]) == float(array[-1]) + 1

        return timed(there_and_back)

    return work


def _argument(worker: str) -> Work:
    def work(client: Any, nbytes: int) -> float:
        array = np.random.default_rng().random(nbytes // 8)
        return timed(lambda: client.submit(use, array, 3, workers=[worker]).result())

    return work


def _result(worker: str) -> Work:
    def work(client: Any, nbytes: int) -> float:
        future = client.submit(np.full, nbytes // 8, time.time(), workers=[worker], pure=False)
        client.submit(nothing, future, workers=[worker], pure=False).result()
        return timed(lambda: future.result()[-1])

    return work


def _text(client: Any, nbytes: int) -> float:
    data = np.random.default_rng().bytes(nbytes)

    def there_and_back() -> None:
        assert client.submit(reverse, data, workers=["B"]).result()[-1] == data[0]

    return timed(there_and_back)


def _shared(client: Any, nbytes: int) -> float:
    array = np.random.default_rng().random(nbytes // 8)
    wanted = [float(array[number]) for number in range(40)]

    def all_of_them() -> None:
        assert client.gather(client.map(use, [array] * 40, range(40))) == wanted

    return timed(all_of_them)


def _hops(client: Any, nbytes: int) -> float:
    first = client.submit(np.full, nbytes // 8, time.time(), workers=["A"], pure=False)
    client.submit(nothing, first, workers=["A"], pure=False).result()

    def there_and_back() -> None:
        there = client.submit(grown, first, workers=["B"])
        client.submit(use, client.submit(grown, there, workers=["A"]), 0).result()

    return timed(there_and_back) / 2


def _array(client: Any, nbytes: int) -> float:
    import dask.array as da

    side = int((nbytes // 8) ** 0.5)
    numbers = np.random.default_rng().integers(0, 9, (side, side)).astype("f8")

    def product() -> None:
        array = da.from_array(numbers, chunks=(side // 2, side // 2))
        assert float((array @ array.T).trace().compute(scheduler=client)) == float((numbers * numbers).sum())

    return timed(product)


WORKS: tuple[tuple[str, Work, int], ...] = (
    ("argument to a worker on A", _argument("A"), 20 * MB),
    ("argument to a worker on B", _argument("B"), 20 * MB),
    ("result from a worker on A", _result("A"), 20 * MB),
    ("result from a worker on B", _result("B"), 20 * MB),
    ("round trip to B", _round_trip("B"), KB),
    ("round trip to B", _round_trip("B"), 10 * MB),
    ("round trip of bytes to B", _text, 10 * MB),
    ("hop between A and B", _hops, 20 * MB),
    ("40 tasks that share one array", _shared, 5 * MB),
    ("dask.array: product with its transpose", _array, 8 * MB),
)


def measure(where: str, addresses: dict[str, str], rounds: int) -> Iterator[Row]:
    """All works by all systems, in turns, by a client on this host."""
    import dask
    import distributed

    from proxyfab.integrations.dask import Client

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}), ExitStack() as stack:
        clients = {}
        for system, kind in (("dask", distributed.Client), ("proxyfab", Client)):
            client = stack.enter_context(kind(addresses[system], timeout=STARTS, set_as_default=False))
            client.wait_for_workers(2, timeout=STARTS)
            clients[system] = client
        if clients["proxyfab"]._proxyfab is None:
            raise click.ClickException("Proxyfab's client is a plain one, as its log says: too busy a machine, mostly.")
        for what, work, nbytes in WORKS:
            samples: dict[str, list[float]] = {system: [] for system in clients}
            often = rounds if nbytes >= MB else SMALL * rounds
            for system in [*clients, *interleaved(list(clients), often)]:
                samples[system].append(work(clients[system], nbytes))
            for system, found in samples.items():
                yield row("two_hosts", what, system, found[1:], kind=where, nbytes=nbytes)


def shown(rows: list[Row], mbit: int) -> str:
    """The table, and where and when it was measured."""
    cells: dict[tuple[str, str, int], dict[str, float]] = {}
    for each in rows:
        cells.setdefault((each.kind, each.what, each.nbytes), {})[each.system] = each.median
    lines = [
        (where, f"{what}, {size_name(nbytes)}", *[seconds(found[name]) for name in SYSTEMS], _times(found))
        for (where, what, nbytes), found in cells.items()
    ]
    results = Results(machine())
    results.add("two_hosts", f"{datetime.now(UTC):%Y-%m-%d}", Outcome(rows, []))
    place = (
        f"Two network namespaces of one machine, with a link of {mbit:,} Mbit/s; scheduler and a worker on A, one on B."
    )
    shown = table(("client on", "", "plain Dask", "**proxyfab**", "faster"), lines)
    return f"{place} Medians.\n\n{shown}\n\n{described(results)}"


def _times(found: dict[str, float]) -> str:
    return f"{found['dask'] / found['proxyfab']:.2f}x"


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Of each work by each system.")
@click.option("--mbit", default=1000, show_default=True, help="Speed of the link, in Mbit/s.")
@click.option("--client", "only", type=click.Choice(tuple(ADDRESSES)), default=None, help="Only a client there.")
@click.option("--page", is_flag=True, help="Put the table into docs/dask.md.")
@click.option("--inside", hidden=True, default=None, help="Be the client on this host.")
def main(rounds: int, mbit: int, only: str | None, page: bool, inside: str | None) -> None:
    """Measure Dask and proxyfab between two hosts."""
    if inside is not None:
        asked = json.loads(inside)
        for each in measure(asked["where"], asked["addresses"], rounds):
            print(json.dumps(each._asdict()), flush=True)
        return
    rows = []
    for where in (only,) if only else tuple(ADDRESSES):
        with ExitStack() as stack:  # each client finds clusters that nobody has used
            hosts = stack.enter_context(linked(mbit))
            addresses = {system: stack.enter_context(cluster(hosts, system)) for system in SYSTEMS}
            asked = json.dumps({"where": where, "addresses": addresses})
            command = (sys.executable, "-m", "benchmarks.two_hosts", "--rounds", str(rounds), "--inside", asked)
            with hosts[where].start(*command, stdout=subprocess.PIPE) as client:
                for line in client.stdout or ():
                    rows.append(Row(**json.loads(line)))
                    click.echo(f"{where}: {rows[-1].what} by {rows[-1].system}: {rows[-1].median:.4f} s", err=True)
            if client.returncode:
                raise click.ClickException(f"the client on {where} ended with {client.returncode}")
    text = shown(rows, mbit)
    click.echo(text)
    if page:
        fill(PAGE, text, START, END)


if __name__ == "__main__":
    main()
