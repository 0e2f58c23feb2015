"""`topology`: servers from edge to cloud out of one description: checked, rendered, made, watched."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from proxyfab.brokers.opening import open_broker
from proxyfab.cli.output import as_json, show, show_json, working
from proxyfab.errors import ConfigurationError, MissingDependency, ProxyfabError, TopicNotFound
from proxyfab.events.topology import Held, Topology, environment
from proxyfab.events.topology_text import render as text_of

if TYPE_CHECKING:
    from proxyfab.brokers.nats.broker import NatsBroker
    from proxyfab.brokers.nats.gathering import Flow

_TIMEOUT = 2.0
_AT_ONCE = 128
_ANYTHING = "proxyfab-check-only"
_MISSING = "missing: proxyfab topology apply"

described = click.argument("file", type=click.Path(dir_okay=False, exists=True))
entering = click.option("--as", "principal", default="", help="Principal to enter as; by default who may do all.")


@click.group()
def topology() -> None:
    """Servers from edge to cloud, out of one description in TOML."""


@topology.command()
@described
@as_json
def check(file: str, as_json: bool) -> None:
    """Check FILE, and with nats-server what it comes to, where that is installed."""
    found = _read(file)
    tested = [name for name in found.servers if _tested(found, name)]
    wanted = {name: dict(environment(found, name)) for name in found.servers}
    if as_json:
        show_json({"servers": list(found.servers), "topics": list(found.topics), "tested": tested, "needs": wanted})
        return
    rows = [(name, variable, what) for name, needs in wanted.items() for variable, what in needs.items()]
    if rows:
        show(("server", "needs in its environment", "for"), rows)
    how = "with nats-server" if tested else "without nats-server, which is not installed"
    click.echo(f"{len(found.servers)} servers and {len(found.topics)} gathered topics are fine, checked {how}.")


@topology.command()
@described
@click.argument("directory", type=click.Path(file_okay=False))
@as_json
def render(file: str, directory: str, as_json: bool) -> None:
    """Write a configuration for each server of FILE into DIRECTORY: `nats-server -c DIRECTORY/NAME.conf`."""
    from proxyfab.brokers.nats.program import write_mine

    found = _read(file)
    os.makedirs(directory, exist_ok=True)
    written = {name: str(Path(directory, f"{name}.conf")) for name in found.servers}
    for name, path in written.items():
        write_mine(path, text_of(found, name))
    if as_json:
        show_json(written)
    else:
        click.echo("\n".join(written.values()))


@topology.command()
@described
@entering
@as_json
def apply(file: str, principal: str, as_json: bool) -> None:
    """Make the gathered topics of FILE on all their servers, those below first; again, to bring them up to date."""
    from proxyfab.brokers.nats.gathering import gather

    found = _read(file)
    with _Servers(found, principal) as servers:
        servers.find(_whose(found))
        done = []
        for held in _all_held(found):
            with working(f"{held.topic.name} on {held.server}"):
                gather(servers.reach(held.server, found.topics[held.topic.name].account), held)
            done.append((held.topic.name, held.server, ", ".join(held.below)))
    if as_json:
        show_json([{"topic": topic, "server": server, "from": below} for topic, server, below in done])
    else:
        show(("topic", "on", "from"), done)


@topology.command()
@described
@click.option("--cure", is_flag=True, help="Have sources begin anew that are quiet though their server is reached.")
@entering
@as_json
@click.pass_context
def status(context: click.Context, file: str, cure: bool, principal: str, as_json: bool) -> None:
    """Look at each server of FILE, its link upwards, and what is still to come from each source.

    The status is 1 when a server, a link or a source is not well, after the cure if there is one.
    """
    found = _read(file)
    with _Servers(found, principal) as servers:
        seen = _look(found, servers)
        servers.find(_whose(found))
        sources = [each for held in _all_held(found) for each in _sources(found, servers, held, cure)]
    if as_json:
        show_json({"servers": [each._asdict() for each in seen], "sources": [each._asdict() for each in sources]})
    else:
        show(
            ("server", "role", "reached", "link upwards"),
            [(each.name, each.role, _yes(each.reached), _yes(each.link)) for each in seen],
        )
        if sources:
            lags = ["unknown" if each.lag is None else each.lag for each in sources]
            rows = [(*each[:3], lag, each.state) for each, lag in zip(sources, lags, strict=True)]
            show(("topic", "on", "from", "to come", "state"), rows)
    well = all(each.reached and each.link is not False for each in seen)
    context.exit(0 if well and all(each.state in ("well", "cured") for each in sources) else 1)


class _Seen(NamedTuple):
    """A server as it is: `link` None for one with nobody above."""

    name: str
    role: str
    reached: bool
    link: bool | None


class _Source(NamedTuple):
    """What comes into a topic on a server; `state`: well, cut, stalled, cured, missing, or what JetStream says."""

    topic: str
    server: str
    source: str
    lag: int | None
    state: str


class _Servers:
    """Brokers at servers, each opened once, directly or through a server that is reached."""

    def __init__(self, found: Topology, principal: str) -> None:
        if principal and principal not in found.principals:
            raise ConfigurationError(f"There is no principal {principal!r} here.")
        self._found = found
        self._principal = principal
        self.described = found.servers
        self._beside: dict[str, list[str]] = {name: [] for name in found.servers}
        for name, server in found.servers.items():
            if server.upstream:
                self._beside[name].append(server.upstream)
                self._beside[server.upstream].append(name)
        self._stack = ExitStack()
        self._open: dict[str, NatsBroker | None] = {}

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, server: str, account: str = "", domain: str = "") -> NatsBroker | None:
        """A broker at a server that answers, for its own domain or that of another one; None where it does not."""
        return self.ask([(server, account, domain)])[0]

    def ask(self, wanted: Iterable[tuple[str, str, str]]) -> list[NatsBroker | None]:
        """What `at` says for each, asked at the same time: those that are away are waited for together."""
        urls = [self._url(*each) for each in wanted]
        new = [url for url in dict.fromkeys(urls) if url not in self._open]
        if new:
            with ThreadPoolExecutor(min(len(new), _AT_ONCE)) as pool:
                self._open.update(zip(new, pool.map(self._opened, new), strict=True))
        return [self._open[url] for url in urls]

    def find(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Look for servers of accounts, directly and then through others, so that `reach` waits for none in turn."""
        sought = dict.fromkeys(wanted)
        accounts = dict.fromkeys(account for _, account in sought)
        self.ask((name, account, "") for account in accounts for name in self.described)
        self.ask([way for each in sought if self.at(*each) is None for way in self._ways(*each)])

    def reach(self, server: str, account: str) -> NatsBroker:
        """A broker for a server, through another one if need be; raises ConnectorError."""
        broker = self.at(server, account) or next(filter(None, self.ask(self._ways(server, account))), None)
        if broker is None:
            raise ProxyfabError(f"{server} cannot be reached at {self.described[server].address}, nor by others.")
        return broker

    def _ways(self, server: str, account: str) -> list[tuple[str, str, str]]:
        """Through whom a server may be reached: along the links the nearest that answer; the others are behind them."""
        found: list[str] = []
        away = [server]
        for name in away:  # which grows
            for other in self._beside[name]:
                if other not in away and other not in found:
                    (away if self.at(other, account) is None else found).append(other)
        return [(other, account, server) for other in found]

    def _url(self, server: str, account: str, domain: str) -> str:
        who = self._principal or self._found.administrator(account or next(iter(self._found.accounts), ""))
        return self._found.url(server, who, domain=domain)

    def _opened(self, url: str) -> NatsBroker | None:
        broker: Any = self._stack.enter_context(open_broker(url))
        return broker if _answers(broker) else None


def _answers(broker: NatsBroker) -> bool:
    try:
        broker.ping(_TIMEOUT)
    except ProxyfabError:
        return False
    return True


def _look(found: Topology, servers: _Servers) -> list[_Seen]:
    reached = dict(zip(found.servers, servers.ask((name, "", "") for name in found.servers), strict=True))
    below = [name for name, server in found.servers.items() if server.upstream]
    ways = [
        (name, "", up) if reached[name] else (up, "", name) for name in below if (up := found.servers[name].upstream)
    ]
    links = dict(zip(below, servers.ask(ways), strict=True))
    return [
        _Seen(name, server.role, reached[name] is not None, links[name] is not None if name in links else None)
        for name, server in found.servers.items()
    ]


def _sources(found: Topology, servers: _Servers, held: Held, cure: bool) -> Iterator[_Source]:
    from proxyfab.brokers.nats.gathering import absent, flows, gather, nudge, recovered

    account = found.topics[held.topic.name].account
    topic, server = held.topic.name, held.server
    try:
        broker = servers.reach(server, account)
        seen = flows(broker, held)
    except TopicNotFound:
        yield _Source(topic, server, "", None, _MISSING)
        return
    except ProxyfabError as error:
        yield _Source(topic, server, "", None, str(error))
        return
    gone = absent(broker, held, seen)
    silent = [flow.server for flow in (*seen, *gone) if flow.quiet and flow.server != server]
    servers.ask([(server, account, source) for source in silent])
    states = {flow: _state(servers, flow, server, account) for flow in seen} | dict.fromkeys(gone, _MISSING)
    stalled = [flow for flow, state in states.items() if state == "stalled"]
    if cure and gone:
        gather(broker, held)
    for stream in {flow.stream for flow in stalled} if cure else ():
        nudge(broker, stream)
    reached = [flow for flow in gone if _state(servers, flow, server, account) == "stalled"]
    if cure and (stalled or reached):
        cured = recovered(broker, held, [flow[:2] for flow in (*stalled, *reached)], _TIMEOUT * 5)
        states = {flow: "cured" if flow[:2] in cured else state for flow, state in states.items()}
    for flow, state in states.items():
        lag = _lag(servers, flow, account) if flow.server != server else flow.lag
        yield _Source(topic, server, flow.server if flow.server != server else "its producers", lag, state)


def _lag(servers: _Servers, flow: Flow, account: str) -> int | None:
    """What is still to come; of a source that is quiet, what the other server has and this one has not, if it tells."""
    from proxyfab.brokers.nats.gathering import last

    if flow.lag is not None or flow.server not in servers.described:  # taken out of the description, and not applied
        return flow.lag
    try:
        return max(last(servers.reach(flow.server, account), flow.stream) - flow.at, 0) if flow.at else None
    except ProxyfabError:
        return None


def _state(servers: _Servers, flow: Flow, server: str, account: str) -> str:
    if flow.error:
        return flow.error
    if not flow.quiet:
        return "well"
    return "stalled" if flow.server == server or servers.at(server, account, flow.server) is not None else "cut"


def _all_held(found: Topology) -> list[Held]:
    return [held for topic in found.topics for held in found.held(topic)]


def _whose(found: Topology) -> list[tuple[str, str]]:
    """The servers of gathered topics, with their accounts."""
    return [(held.server, found.topics[held.topic.name].account) for held in _all_held(found)]


def _read(file: str) -> Topology:
    return Topology.parse(Path(file).read_bytes())


def _tested(found: Topology, name: str) -> bool:
    """Whether nats-server has read its configuration; raises ConfigurationError when it did not like it."""
    from proxyfab.brokers.nats.program import program

    try:
        command = program()
    except MissingDependency:
        return False
    stands_for = dict.fromkeys(environment(found, name), _ANYTHING)
    stands_for |= {each: "nats-leaf://check:only@127.0.0.1:1" for each in stands_for if "_URL_" in each}
    with tempfile.TemporaryDirectory(prefix="proxyfab-topology-") as directory:
        path = Path(directory, f"{name}.conf")
        path.write_text(text_of(found, name))
        done = subprocess.run(
            [command, "-t", "-c", str(path)],
            env={**stands_for, **os.environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    if done.returncode:
        raise ConfigurationError(f"nats-server does not take the configuration of {name}: {done.stderr.strip()}")
    return True


def _yes(value: bool | None) -> str:
    return "" if value is None else ("yes" if value else "no")
