"""`proxyfab topology` on real servers: principals, a link that needs a password, and a hub that is started again."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.nats.gathering import Flow
from proxyfab.cli import topology as cli
from proxyfab.cli.main import main
from proxyfab.errors import ProxyfabError
from proxyfab.events.topology import Topology
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.testing import until
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import free_port

TWO = """
[servers.hub]
role = "hub"
address = "127.0.0.1:{hub}"
leaf = "127.0.0.1:{leaf}"
store = "{store}/hub"

[servers.edge]
role = "edge"
address = "127.0.0.1:{edge}"
upstream = "hub"
link = "env:EDGE_LINK"
store = "{store}/edge"

[servers.spare]
role = "edge"
address = "127.0.0.1:{spare}"
upstream = "hub"
link = "env:SPARE_LINK"
store = "{store}/spare"

[principals.operator]
password = "env:OPERATOR"
grants = {{ "*" = ["admin"] }}

[principals.camera]
password = "env:CAMERA"
servers = ["edge"]
grants = {{ frames = ["publish"] }}

[principals.viewer]
password = "env:VIEWER"
grants = {{ frames = ["subscribe"] }}

[topics.frames]
from = ["edge", "spare"]
to = "hub"
"""


def run(*arguments: str, code: int = 0) -> Any:
    """What a command says as JSON."""
    result = CliRunner().invoke(main, ["topology", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.output) if code < 2 else result.output


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("hub", "leaf", "edge", "spare")}


@pytest.fixture
def file(tmp_path: Path, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> str:
    """The description, and secrets in the environment."""
    for who in ("operator", "camera", "viewer"):
        monkeypatch.setenv(who.upper(), f"word-of-{who}")
    for edge in ("edge", "spare"):
        monkeypatch.setenv(f"{edge.upper()}_LINK", "word-of-link")
        leaf = f"nats-leaf://{edge}.main:word-of-link@127.0.0.1:{ports['leaf']}"
        monkeypatch.setenv(f"{edge.upper()}_LINK_URL_MAIN", leaf)
    path = tmp_path / "lab.toml"
    path.write_text(TWO.format(**ports, store=tmp_path))
    return str(path)


@pytest.fixture
def servers(file: str, tmp_path: Path, ports: dict[str, int]) -> Iterator[dict[str, NatsServer]]:
    """Both, from what was rendered."""
    written = run("render", file, str(tmp_path / "made"))
    with contextlib.ExitStack() as stack:
        found = {}
        for name, path in written.items():
            assert "word-of" not in Path(path).read_text()
            found[name] = server = NatsServer(Path(path).read_text())
            server.port = ports[name]
            stack.enter_context(server)
        yield found


def test_checked_by_a_server(file: str) -> None:
    said = run("check", file)
    assert said["tested"] == ["hub", "edge", "spare"]
    assert set(said["needs"]["edge"]) == {"OPERATOR", "CAMERA", "VIEWER", "EDGE_LINK_URL_MAIN"}
    text = Path(file).read_text()
    Path(file).write_text(text.replace('upstream = "hub"', 'upstream = "hug"'))
    assert "speaks of a server 'hug'" in run("check", file, code=2)


def test_applied_watched_and_cured(file: str, servers: dict[str, NatsServer]) -> None:
    topology = Topology.parse(Path(file).read_text())
    with contextlib.suppress(ProxyfabError):
        assert until(lambda: all(each["link"] is not False for each in run_status(file)["servers"]))
    assert run("apply", file) == run("apply", file)
    assert until(lambda: run_status(file)["well"])
    with NatsBroker.from_url(topology.url("edge", "camera")) as camera, Producer(camera, "frames") as producer:
        producer.send("before")
        producer.flush()
        servers["hub"].kill()
        down = run_status(file)
        assert [each["reached"] for each in down["servers"]] == [False, True, True]
        producer.send("after")
        producer.end()
    for edge in ("edge", "spare"):
        servers[edge].kill()
    servers["hub"].start()  # asks for its sources while nobody is there, and not again when somebody is
    apart = run_status(file)
    assert [each["reached"] for each in apart["servers"]] == [True, False, False]
    assert [at_hub(apart)[edge]["state"] for edge in ("edge", "spare")] == ["cut", "cut"]
    servers["edge"].start()
    assert until(lambda: run_status(file)["servers"][1]["link"])
    stalled = sources(file)["edge"]
    assert (stalled["state"], stalled["lag"] is None or stalled["lag"] > 0) == ("stalled", True), stalled
    cured = sources(file, "--cure")  # what comes from others is cured beside one that is away
    assert (cured["spare"]["state"], cured["edge"]["state"]) == ("cut", "cured")
    servers["spare"].start()
    with NatsBroker.from_url(topology.url("hub", "operator")) as operator:
        take_sources_away(operator)  # as a cure does that is killed amid
    missing = sources(file)
    assert [missing[edge]["state"] for edge in ("edge", "spare")] == ["missing: proxyfab topology apply"] * 2
    assert sources(file, "--cure")["edge"]["state"] == "cured"
    with (
        NatsBroker.from_url(topology.url("hub", "viewer")) as viewer,
        Consumer(viewer, "frames", group="g") as consumer,
    ):
        assert list(consumer.objects()) == ["before", "after"]


def sources(file: str, *more: str) -> dict[str, Any]:
    """What comes to the hub by now, by where it comes from."""
    return at_hub(run_status(file, *more))


def at_hub(status: Any) -> dict[str, Any]:
    """What comes to the hub, by where it comes from."""
    return {each["source"]: each for each in status["sources"] if each["server"] == "hub"}


def take_sources_away(broker: NatsBroker) -> None:
    async def work(deadline: float) -> None:
        link = broker._desk.link
        known = (await link.call("STREAM.INFO.pf_frames", None, deadline))["config"]
        await link.call("STREAM.UPDATE.pf_frames", {**known, "sources": []}, deadline)

    broker._run(work, 10)


def run_status(file: str, *more: str) -> Any:
    """What `status` says, and whether all is well."""
    result = CliRunner().invoke(main, ["topology", "status", file, "--json", *more])
    assert result.exit_code in (0, 1), result.output
    return {**json.loads(result.output), "well": result.exit_code == 0}


def test_as_a_table(file: str, servers: dict[str, NatsServer]) -> None:
    assert servers
    for command in (("check", file), ("apply", file), ("status", file), ("status", file, "--as", "operator")):
        result = CliRunner().invoke(main, ["topology", *command])
        assert result.exit_code in (0, 1) and "Traceback" not in result.output, result.output
    assert "EDGE_LINK_URL_MAIN" in CliRunner().invoke(main, ["topology", "check", file]).output
    assert CliRunner().invoke(main, ["topology", "status", file, "--as", "nobody"]).exit_code == 2


def described(edges: int) -> str:
    """A hub with so many edges, open to its own machine, where nobody listens."""
    text = '[servers.hub]\nrole = "hub"\naddress = "127.0.0.1:1"\nleaf = "127.0.0.1:2"\nstore = "/nowhere"\n'
    for number in range(edges):
        text += f'[servers.edge{number}]\nrole = "edge"\naddress = "127.0.0.1:{number + 3}"\nupstream = "hub"\n'
        text += f'store = "/nowhere/{number}"\n'
    return f"{text}[topics.frames]\nfrom = {[f'edge{number}' for number in range(edges)]}\nto = 'hub'\n"


@pytest.mark.parametrize("told", ["status", "apply"])
def test_those_away_are_waited_for_together(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads: int) -> None:
            waits.append("together")
            super().__init__(threads)

    def answers(_: NatsBroker) -> bool:
        if threading.current_thread() is threading.main_thread():
            waits.append("alone")
        return False

    monkeypatch.setattr(cli, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(cli, "_answers", answers)
    taken = []
    for edges in (2, 9):
        waits.clear()
        (tmp_path / "lab.toml").write_text(described(edges))
        assert CliRunner().invoke(main, ["topology", told, str(tmp_path / "lab.toml")]).exit_code == 1
        taken.append(len(waits))
    assert taken[0] == taken[1] <= 2


def test_ways_to_a_server_are_those_along_the_links(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Topology.parse(described(5))
    there = {found.url("hub"), found.url("edge0"), found.url("edge1")}
    asked = []

    def answers(broker: NatsBroker) -> bool:
        asked.append(broker.url)
        return broker.url in there

    monkeypatch.setattr(cli, "_answers", answers)
    with cli._Servers(found, "") as servers:
        servers.find([("edge2", "main"), ("edge3", "main")])
        straight = {found.url(name) for name in found.servers}
        assert set(asked) == straight | {found.url("hub", domain="edge2"), found.url("hub", domain="edge3")}
        there.discard(found.url("hub"))
    with cli._Servers(found, "") as servers:
        through = {found.url(f"edge{number}", domain="edge2") for number in (0, 1)}
        there |= through
        assert servers.reach("edge2", "main").url in through  # the hub hangs, and its links are up


def test_a_source_that_is_not_described_any_more() -> None:
    with cli._Servers(Topology.parse(described(1)), "") as servers:
        assert cli._lag(servers, Flow("pf_frames", "gone", None, None, at=3), "main") is None
