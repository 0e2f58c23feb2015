"""`top`: what a store or server holds and does, again and again: a live table, lines, JSON, or Prometheus's metrics."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proxyfab.abc import Status, SupportsStatus
from proxyfab.census import status_of
from proxyfab.cli.holdings import connect
from proxyfab.cli.output import Seconds, age, as_json, finite, public, show_json, size, store_url
from proxyfab.cli.top_broker import BrokerWatch, is_broker
from proxyfab.cli.top_watch import Watch, in_time, number, table
from proxyfab.errors import CapabilityError, ConfigurationError, ProxyfabError

if TYPE_CHECKING:
    from proxyfab.integrations.prometheus import Collector

S = TypeVar("S")
_SKEW = 5.0  # some places tell for how many seconds they run, not since when
_MOST_ROWS = 30
_BYTES = "bytes"


class Sample(NamedTuple):
    """A status, when it was taken, and each counter's growth a second since the one before."""

    moment: float
    status: Status
    rates: dict[str, float]


@click.command()
@store_url
@click.option(
    "--interval",
    default=2.0,
    type=Seconds(0.1),
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--prometheus", metavar="[HOST:]PORT", help="Serve metrics there instead (`-`: print them once).")
@click.option("--broker", is_flag=True, help="URL is a broker's, as nats:// and kafka:// always are: watch its topics.")
@as_json
def top(url: str, interval: float, once: bool, prometheus: str | None, broker: bool, as_json: bool) -> None:
    """Watch a store or server: objects, bytes, rates, peers; or a broker's topics. Ctrl-C ends it.

    On a terminal the table is drawn anew at each look; into a pipe or file each look is a line.
    """
    if is_broker(url, broker):
        _watch(BrokerWatch(url), interval, once, prometheus, as_json)
    else:
        _watch(StoreWatch(url), interval, once, prometheus, as_json)


def _watch(watch: Watch[S], interval: float, once: bool, prometheus: str | None, as_json: bool) -> None:
    try:
        with _until_told():
            if prometheus is not None:
                _export(watch, prometheus)
            elif once:
                _print_once(watch, as_json)
            elif as_json or not sys.stdout.isatty():
                _print_lines(watch, interval, as_json)
            else:
                _draw(watch, interval)
    finally:
        watch.close()


@contextmanager
def _until_told() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: quietly, and with the terminal as it was."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever runs us ends us
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


# -- looking ---------------------------------------------------------------------------------------------------------


class StoreWatch(Watch[Sample]):
    """A store's place.

    Args:
        url: The store's URL.
    """

    def __init__(self, url: str) -> None:
        self._connector = connect(url)
        self.url = public(url)

    def ask(self) -> Status:
        """The status, or ResolveTimeout."""
        status = in_time(lambda: status_of(self._connector), f"The status of {self.url}")
        # A connector without a namespace in its URL draws one, which is not what was asked about.
        return status if isinstance(self._connector, SupportsStatus) else status._replace(what=self.url)

    def look(self, before: Sample | None) -> Sample:
        status, moment = self.ask(), time.time()
        if before is None or (status.started or 0) > (before.status.started or 0) + _SKEW:  # it started anew
            return Sample(moment, status, {})
        passed, old = max(moment - before.moment, 0.001), before.status.counters
        rates = {name: max(0.0, now - old[name]) / passed for name, now in status.counters.items() if name in old}
        return Sample(moment, status, rates)

    def document(self, sample: Sample) -> dict[str, object]:
        return {"time": sample.moment, **sample.status._asdict(), "rates": sample.rates}

    def line(self, sample: Sample) -> str:
        return _line(sample)

    def picture(self, sample: Sample) -> Group:
        return _picture(sample)

    def collector(self) -> Collector:
        from proxyfab.integrations.prometheus import StatusCollector

        return StatusCollector(self.url, self.ask)

    def close(self) -> None:
        self._connector.close()


def _looks(watch: Watch[S], interval: float) -> Iterator[S | ProxyfabError]:
    """A sample every `interval` seconds, for ever; an error in its place while the place does not answer.

    Raises:
        ProxyfabError: The first look failed, or no look can ever succeed.
    """
    last = watch.look(None)
    yield last
    following = time.monotonic()
    while True:
        now = time.monotonic()
        following = max(following, now - interval / 2) + interval  # what a late answer has cost is not made up for
        time.sleep(max(0.0, following - now))
        try:
            last = watch.look(last)
            yield last
        except (CapabilityError, ConfigurationError):
            raise
        except ProxyfabError as error:
            yield error


# -- showing ---------------------------------------------------------------------------------------------------------


def _print_once(watch: Watch[S], as_json: bool) -> None:
    sample = watch.look(None)
    if as_json:
        show_json(watch.document(sample))
        return
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(watch.picture(sample))


def _print_lines(watch: Watch[S], interval: float, as_json: bool) -> None:
    for sample in _looks(watch, interval):
        if isinstance(sample, ProxyfabError):
            click.echo(f"no answer: {sample}", err=True)
        else:
            click.echo(json.dumps(finite(watch.document(sample))) if as_json else watch.line(sample))
        sys.stdout.flush()


def _draw(watch: Watch[S], interval: float) -> None:
    with Live(auto_refresh=False) as live:
        last: S | None = None
        for sample in _looks(watch, interval):
            if isinstance(sample, ProxyfabError):
                trouble = Text(f"no answer: {sample}", style="red")
                live.update(Group(trouble, watch.picture(last)) if last is not None else trouble, refresh=True)
            else:
                last = sample
                live.update(watch.picture(sample), refresh=True)


def _line(sample: Sample) -> str:
    status = sample.status
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(sample.moment))
    parts = [moment, status.what, f"objects={status.objects}", f"bytes={status.nbytes}"]
    parts += [f"limit={status.limit}"] if status.limit is not None else []
    parts += [f"peers={len(status.peers)}"]
    parts += [f"{name}={level:g}" for name, level in sorted(status.gauges.items())]
    parts += [f"{name}/s={rate:.1f}" for name, rate in sorted(sample.rates.items())]
    return " ".join(parts)


def _picture(sample: Sample) -> Group:
    status = sample.status
    held = f"{status.objects} objects, {size(status.nbytes)}"
    if status.limit:
        held += f" of {size(status.limit)} ({100 * status.nbytes / status.limit:.0f} %)"
    if status.started is not None:
        held += f", up {age(status.started)}"
    parts: list[Text | Table] = [Text(status.what, style="bold"), Text(held)]
    if status.counters:
        parts.append(table(("counter", "total", "a second"), [_counter(sample, name) for name in status.counters]))
    if status.gauges:
        rows = [(name, _shown(name)(level)) for name, level in status.gauges.items()]
        parts.append(table(("level", "now"), rows))
    if status.peers:
        parts.append(_peers(status))
    return Group(*parts)


def _counter(sample: Sample, name: str) -> tuple[str, str, str]:
    total, rate = sample.status.counters[name], sample.rates.get(name)
    shown = _shown(name)
    return name, shown(total), "-" if rate is None else shown(rate)


def _shown(name: str) -> Callable[[float], str]:
    return size if _BYTES in name else number


def _peers(status: Status) -> Table:
    columns = list(dict.fromkeys(name for peer in status.peers for name in peer))
    rows = [[_cell(name, peer.get(name, "")) for name in columns] for peer in status.peers[:_MOST_ROWS]]
    if len(status.peers) > _MOST_ROWS:
        rows.append([f"and {len(status.peers) - _MOST_ROWS} more", *[""] * (len(columns) - 1)])
    return table(columns, rows)


def _cell(name: str, value: str | float) -> str:
    if isinstance(value, str):
        return value
    return _shown(name)(value)


# -- exporting -------------------------------------------------------------------------------------------------------


def _export(watch: Watch[S], address: str) -> None:
    from proxyfab.integrations.prometheus import exposition, publish

    collector = watch.collector()
    if address == "-":
        watch.look(None)  # an error here is one, and not a gauge
        click.echo(exposition(collector), nl=False)
        return
    with publish(address, collector) as where:
        click.echo(f"metrics of {watch.url} at {where}", err=True)
        threading.Event().wait()
