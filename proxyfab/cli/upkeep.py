"""`events forward`, `sweep` and `delete`: topics copied between brokers, and what is left of their objects."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import click

from proxyfab.abc import Reclaimed
from proxyfab.brokers.opening import open_broker
from proxyfab.cli.output import Seconds, as_json, public, show_json, show_reclaimed, size, working
from proxyfab.patterns.resilient.leavings import sweep_tasks
from proxyfab.patterns.stream.forwarding import forward as copy
from proxyfab.patterns.stream.letters import topic_of
from proxyfab.patterns.stream.releasing import sweep as take_back
from proxyfab.patterns.stream.strays import OLD, sweep_strays

at = click.option(
    "-b",
    "--broker",
    "url",
    default="nats://auto",
    envvar="PROXYFAB_BROKER",
    show_default=True,
    help="URL of the broker.",
)


@click.command()
@click.argument("topic")
@click.argument("target")
@click.option("--to", help="Its name at the target; the same, if not given.")
@click.option(
    "--name", default="forward", show_default=True, help="Who forwards, one for each target: it goes on where it was."
)
@click.option("--copy-into", "store", help="URL of a store to copy objects into; otherwise their references travel.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@at
@as_json
def forward(
    topic: str, target: str, to: str | None, name: str, store: str | None, follow: bool, url: str, as_json: bool
) -> None:
    """Copy TOPIC to the broker at TARGET, each frame once, also over restarts."""
    stopped = threading.Event()
    if follow:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: stopped.set())
    with working(f"forwarding {topic} to {public(target)}"):
        done = copy(
            open_broker(url),
            topic,
            open_broker(target),
            to,
            name=name,
            copy_objects=store is not None,
            store=store,
            follow=follow,
            stop=stopped.is_set,
        )
    said: dict[str, Any] = done._asdict()
    if as_json:
        show_json(said)
    else:
        click.echo(f"{', '.join(f'{count} {what}' for what, count in said.items())}: {topic} to {public(target)}")


@click.command()
@click.argument("topic", required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Only report.")
@click.option("--older", default=OLD, type=Seconds(), show_default=True, help="Seconds that it was left for.")
@at
@as_json
def sweep(topic: str | None, dry_run: bool, older: float, url: str, as_json: bool) -> None:
    """Take back objects of TOPIC that nobody is to read any more: what consumers and producers that died have left.

    Without TOPIC: the tasks of executors without a name that were killed.
    """
    if topic is None:
        with working(f"sweeping {public(url)}"):
            found = sweep_tasks(open_broker(url), older=older, dry_run=dry_run)
        show_reclaimed(found, f"{len(found)} topics of {public(url)}", dry_run=dry_run, as_json=as_json)
        return
    with working(f"sweeping {topic}"):
        found = take_back(open_broker(url), topic, dry_run=dry_run)
        found += sweep_strays(open_broker(url), topic, older=older, dry_run=dry_run)
    show_reclaimed(found, f"{len(found)} objects of {topic}", dry_run=dry_run, as_json=as_json)


@click.command()
@click.argument("topic")
@click.option("--keep-objects", is_flag=True, help="Leave its objects where they are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@at
@as_json
def delete(topic: str, keep_objects: bool, yes: bool, url: str, as_json: bool) -> None:
    """Delete TOPIC with its events, groups and dead letters, and the objects that belong to it."""
    broker = open_broker(url)
    held = broker.describe(topic)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {topic} with {held.records} frames, {size(held.nbytes)}, at {public(url)}?", abort=True)
    found: list[Reclaimed] = []
    for name in (topic_of(topic), topic):
        if name in broker.topics():
            if not keep_objects:
                found += [*take_back(broker, name, everything=True), *sweep_strays(broker, name, older=0.0)]
            broker.delete(name)
    show_reclaimed(found, f"{len(found)} objects of {topic}", dry_run=False, as_json=as_json)
