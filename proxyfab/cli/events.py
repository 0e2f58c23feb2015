"""`events`: topics at a broker, what goes through them, who lags behind, and what never worked."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import click
import msgspec

from proxyfab.brokers.opening import open_broker
from proxyfab.cli.output import age, as_json, finite, public, show, show_json, size, working
from proxyfab.cli.upkeep import at, delete, forward, sweep
from proxyfab.errors import ConfigurationError, ProxyfabError, ResolveTimeout
from proxyfab.events.broker import Broker
from proxyfab.events.model import Start
from proxyfab.patterns.stream import Consumer, Producer
from proxyfab.patterns.stream.deadletters import DeadLetter, dead_letters, purge, replay
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.letters import topic_of
from proxyfab.patterns.trigger import disable, enable, forget, logs, statistics, triggers

_FIRST = 3.0
"""Seconds for the first event of a topic that has some: its broker may be far away."""
_SOON = 0.2
_MUCH = 1.0
_TAIL = 10
_MOST = 10**9
_Some, _More = click.IntRange(0, _MOST), click.IntRange(1, _MOST)
_LINE = 100


@click.group()
def events() -> None:
    """Look at topics, follow and publish events, and deal with what never worked."""


for each in (delete, forward, sweep):
    events.add_command(each)


@events.command()
@click.argument("pattern", default="*")
@at
@as_json
def topics(pattern: str, url: str, as_json: bool) -> None:
    """List topics; PATTERN may have *."""
    if "://" in pattern:
        raise ConfigurationError(f"PATTERN is one of topics' names; the broker is named by --broker {public(pattern)}.")
    broker = open_broker(url)
    found: list[dict[str, Any]] = []
    for name in broker.matching(pattern):
        said = broker.describe(name)
        groups = broker.groups(name)
        found.append(
            {
                "topic": name,
                "partitions": len(said.extents),
                "frames": said.records,
                "bytes": said.nbytes,
                "groups": sorted(groups),
                "lag": max((group.lag for group in groups.values()), default=0),
                "release": said.topic.release,
            }
        )
    if as_json:
        show_json(found)
        return
    cells = [{**row, "bytes": size(row["bytes"]), "groups": ", ".join(row["groups"]) or "-"} for row in found]
    show(("topic", "partitions", "frames", "size", "groups", "lag", "release"), [list(row.values()) for row in cells])


@events.command()
@click.argument("topic")
@at
@as_json
def lag(topic: str, url: str, as_json: bool) -> None:
    """Say how far the groups of TOPIC are, in frames of up to 64 events, and who produces into it."""
    broker = open_broker(url)
    groups = broker.groups(topic)
    rows: list[dict[str, Any]] = [
        {"group": name, "lag": each.lag, "undelivered": each.undelivered, "pending": each.pending, "floor": each.floor}
        for name, each in sorted(groups.items())
    ]
    letters = sum(1 for _ in dead_letters(broker, topic))
    makers = _producers(broker, topic)
    if as_json:
        show_json({"topic": topic, "groups": rows, "dead letters": letters, "producers": makers})
        return
    cells = [[r["group"], r["lag"], r["undelivered"], r["pending"], _floor(r["floor"])] for r in rows]
    show(("group", "lag", "undelivered", "pending", "acknowledged up to"), cells)
    open_ = sum(not maker["ended"] for maker in makers)
    click.echo(f"{len(makers)} producers, {open_} of them not ended; {letters} dead letters")


def _producers(broker: Broker, topic: str) -> list[dict[str, Any]]:
    found = []
    for name, kept in broker.state(topic).items("producers/").items():
        try:
            said = msgspec.msgpack.decode(kept.value)
            found.append(
                {"producer": name.partition("/")[2], "epoch": said.get("epoch"), "ended": bool(said.get("ended"))}
            )
        except (msgspec.MsgspecError, AttributeError):  # somebody else's
            continue
    return found


def _floor(floor: dict[int, int]) -> str:
    return ", ".join(f"{number}@{offset}" for number, offset in sorted(floor.items()))


@events.command()
@click.argument("topic")
@click.option("-n", "count", type=_Some, help="Events of before to begin with; 10, or with --since all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until all producers have ended.")
@click.option("--where", help="Only events for which this JMESPath expression over the metadata is true.")
@click.option("--since", help="From a moment on: seconds since 1970, or as 10s, 5min or 2h before now.")
@at
@as_json
def tail(
    topic: str, count: int | None, follow: bool, where: str | None, since: str | None, url: str, as_json: bool
) -> None:
    """Show the last events of TOPIC. No object is fetched; nobody's position changes."""
    broker = open_broker(url)
    most = _TAIL if count is None and since is None else count
    last = {number: extent.last for number, extent in broker.describe(topic).extents.items()}
    starts: Iterable[Start] = [_moment(since)] if since else _further_and_further_back(last, most or 0)
    first = _FIRST if any(last.values()) else _SOON
    reader: Consumer | None = None
    seen: deque[Item] = deque()
    with ExitStack() as stack:
        for start in starts:
            stack.close()  # what was read from less far back
            options: dict[str, Any] = {"start": start, "where": where, "timeout": None if follow else _SOON}
            reader = stack.enter_context(Consumer(broker, topic, observe=True, **options))
            seen = _caught_up(reader, most, first, _MUCH if follow else None)
            if where or len(seen) >= (most or 0):
                break
        _print(seen, as_json)
        if follow and reader is not None:
            with suppress(ResolveTimeout):
                for item in reader:
                    _print([item], as_json)


def _further_and_further_back(last: dict[int, int], most: int) -> Iterator[Start]:
    """Where so many events may begin: of what was sent last some says that a producer has ended, or the like."""
    back = most
    while True:
        yield {number: max(1, end - back + 1) for number, end in last.items()}
        if back >= max(last.values(), default=0):
            return
        back = max(4 * back, 1)


def _caught_up(reader: Consumer, most: int | None, first: float, enough: float | None) -> deque[Item]:
    """The last of what there is now; after `enough` seconds more comes than can be caught up with."""
    seen: deque[Item] = deque(maxlen=most)
    begun = time.monotonic()
    wait = first
    while most != 0 and (items := reader.fetch(64, wait)):
        seen += items
        wait = _SOON
        if enough is not None and time.monotonic() - begun > enough:
            break
    return seen


def _print(items: Iterable[Item], as_json: bool) -> None:
    for item in items:
        said = _said(item)
        if as_json:
            click.echo(json.dumps(finite(said), default=str))
        else:
            more = " ".join(f"{name}={value}" for name, value in said["metadata"].items())
            line = f"{said['position']}  {_clock(item.time)}  {said['type']}  {size(said['bytes'])}"
            click.echo(f"{line}{'  key=' + said['key'] if said['key'] else ''}{'  ' + more if more else ''}")
    sys.stdout.flush()


def _said(item: Item) -> dict[str, Any]:
    try:
        metadata = item.metadata
    except ProxyfabError as error:
        metadata = {"damaged": str(error)}
    ref = item.ref
    return {
        "position": str(item.position),
        "id": item.id,
        "time": item.time,
        "key": item.key,
        "producer": item.producer,
        "type": ref.kind.name
        if ref is not None and ref.kind
        else type(item.proxy).__name__
        if ref is None
        else "object",
        "bytes": item.nbytes,
        "store": public(ref.url) if ref is not None and ref.key is not None else None,
        "metadata": metadata,
    }


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _moment(text: str) -> float:
    for unit, length in (("min", 60.0), ("h", 3600.0), ("s", 1.0), ("d", 86400.0)):
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return time.time() - float(text[: -len(unit)]) * length
    with suppress(ValueError):
        if math.isfinite(moment := float(text)):
            return moment
    raise ConfigurationError(f"{text!r} is no moment: write 10s, 5min, 2h, 1d, or seconds since 1970.")


@events.command()
@click.argument("topic")
@click.argument("values", nargs=-1)
@click.option("--key", help="What the events belong to.")
@click.option(
    "-m", "--meta", multiple=True, metavar="NAME=VALUE", help="Metadata; a value that is JSON is taken as such."
)
@click.option("--end", is_flag=True, help="Be a producer whose end consumers wait for, and end.")
@at
def publish(topic: str, values: tuple[str, ...], key: str | None, meta: tuple[str, ...], end: bool, url: str) -> None:
    """Send each of VALUES as text, or each line of standard input where there are none.

    Who follows TOPIC ends with its other producers, or with --end; without any of these it goes on waiting.
    """
    metadata = dict(map(_pair, meta))
    count = 0
    with Producer(open_broker(url), topic, awaited=end) as out:
        for value in values or (line.rstrip("\n") for line in sys.stdin):
            out.send(value, key=key, metadata=metadata)
            count += 1
        out.flush()
        if end:
            out.end()
    click.echo(f"{count} events in {topic}", err=True)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"{text!r} is no metadata: write name=value.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# -- dead letters ----------------------------------------------------------------------------------------------------


@events.group()
def dlq() -> None:
    """Dead letters: events that never worked."""


_which = click.option("--where", help="Only those whose cause has this text in it.")
_most = click.option("-n", "--most", type=_More, help="So many at most, the oldest first.")


@dlq.command("list")
@click.argument("topic")
@_which
@_most
@click.option("--traceback", is_flag=True, help="With what was raised.")
@at
@as_json
def list_(topic: str, where: str | None, most: int | None, traceback: bool, url: str, as_json: bool) -> None:
    """List the dead letters of TOPIC: cause, position and how often it was tried."""
    broker = open_broker(url)
    if topic_of(topic) not in broker.topics():
        broker.describe(topic)  # which raises if there is no such topic
    found = [letter for letter in dead_letters(broker, topic) if not where or where in letter.cause][:most]
    if as_json:
        show_json([_letter(each) for each in found])
        return
    if traceback:
        for each in found:
            click.echo(f"{each.position} of group {each.group}: {each.cause}\n{each.traceback}")
        return
    rows = [
        (str(each.position), each.group, each.attempts, age(each.time), size(each.nbytes), each.cause[:_LINE])
        for each in found
    ]
    show(("position", "group", "attempts", "age", "size", "cause"), rows)


def _letter(letter: DeadLetter) -> dict[str, Any]:
    names = ("id", "cause", "traceback", "group", "attempts", "time", "key", "metadata", "nbytes")
    return {"position": str(letter.position), "place": str(letter.place), **{n: getattr(letter, n) for n in names}}


@dlq.command("replay")
@click.argument("topic")
@_which
@_most
@at
def replay_(topic: str, where: str | None, most: int | None, url: str) -> None:
    """Send the dead letters of TOPIC to it once more, under new ids that name the old ones."""
    with working(f"replaying into {topic}"):
        count = replay(open_broker(url), topic, where=_cause(where), most=most)
    click.echo(f"{count} events sent to {topic} once more")


@dlq.command("purge")
@click.argument("topic")
@_which
@_most
@at
def purge_(topic: str, where: str | None, most: int | None, url: str) -> None:
    """Delete dead letters of TOPIC, and the copies of their objects."""
    with working(f"purging {topic_of(topic)}"):
        count = purge(open_broker(url), topic, where=_cause(where), most=most)
    click.echo(f"{count} dead letters of {topic} deleted")


def _cause(text: str | None) -> Any:
    return None if text is None else lambda letter: text in letter.cause


# -- triggers --------------------------------------------------------------------------------------------------------


@events.command("triggers")
@click.argument("name", required=False)
@click.option("--enable", "switch", flag_value="on", help="Have its runners go on.")
@click.option("--disable", "switch", flag_value="off", help="Have its runners make no more calls.")
@click.option("--forget", "switch", flag_value="forget", help="Delete what is known of one that runs no more.")
@click.option("--log", "lines", type=_More, help="Show so many of the newest lines of its log.")
@at
@as_json
def triggers_(name: str | None, switch: str | None, lines: int | None, url: str, as_json: bool) -> None:
    """List triggers and what they have done; with NAME switch one on or off, forget it, or show its log."""
    broker = open_broker(url)
    if (switch or lines) and name is None:
        raise ConfigurationError("Say which trigger: proxyfab events triggers NAME.")
    if switch == "forget" and name:
        click.echo(f"{name} is {'forgotten' if forget(broker, name) else 'not known'}")
        return
    if switch and name:
        (enable if switch == "on" else disable)(broker, name)
    if lines and name:
        found = [line._asdict() for line in logs(broker, name, lines)]
        columns = ("time", "runner", "what", "positions", "seconds", "attempt", "error")
        _table(found, columns, as_json, time=_clock, positions=", ".join)
        return
    known = {each: said for each, said in triggers(broker).items() if name in (None, each)}
    if name and not known:
        others = ", ".join(sorted(triggers(broker))) or "none"
        raise ConfigurationError(f"{public(broker.url)} knows no trigger {name!r}; it has: {others}.")
    rows = []
    for each, said in sorted(known.items()):
        did = statistics(broker, each)
        more = {"fired": did.fired, "succeeded": did.succeeded, "failed": did.failed, "buried": did.buried}
        rows.append(
            {"trigger": each, "topic": said.get("topic"), "enabled": said.get("enabled"), **more, "error": did.error}
        )
    _table(rows, ("trigger", "topic", "enabled", "fired", "succeeded", "failed", "buried", "error"), as_json)


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, **shown: Any) -> None:
    if as_json:
        show_json(rows)
    else:
        show(columns, [[shown.get(name, str)(row[name]) for name in columns] for row in rows])
