"""What `doctor` looks at where a broker is: way, server, entry, clock, room, and what happens to an event.

Promises: nothing is changed there but one topic, for the moment of a round trip; secrets are not shown.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from proxyfab.abc import Finding
from proxyfab.cli.output import public, size
from proxyfab.errors import AccessDenied, ConfigurationError, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.handle import broker_of
from proxyfab.events.model import Capability, Delivery, Record, Topic
from proxyfab.osio.addresses import reach
from proxyfab.spec import ConnectorSpec

_STEP = 5.0
_PAYLOAD = 1024
_SKEW = 2.0
_NEARLY = 0.9


def examine_broker(broker: Broker) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Steps by name; who runs them stops at the first that fails."""
    scheme = broker.url.partition(":")[0]
    if scheme in _PLACES:
        yield scheme, _PLACES[scheme](broker)
    yield "entry", _entry(broker)
    if scheme == "nats":
        yield "room", _nats_room(broker)
    yield "round trip", _round_trip(broker)


def _hosts(broker: Broker, port: int) -> list[tuple[str, int]]:
    found = []
    for address in ConnectorSpec.parse(broker.url).host.split(","):
        host, colon, said = address.rpartition(":")
        found.append((host.strip("[]"), int(said)) if colon and said.isdigit() else (address.strip("[]"), port))
    return found


def _way(broker: Broker, port: int) -> Iterator[Finding]:
    """Name and port of each host; of several one that answers is enough."""
    hosts = _hosts(broker, port)
    answering = 0
    for host, number in hosts:
        steps = list(reach(host, number, timeout=_STEP))
        answering += steps[-1].state == "ok"
        if steps[-1].state == "fail" and len(hosts) > 1:
            steps[-1] = steps[-1]._replace(state="warn")
        yield from steps
    if not answering and len(hosts) > 1:
        yield Finding("port", "fail", f"none of the {len(hosts)} hosts of {public(broker.url)} answers")


# -- each kind's own -------------------------------------------------------------------------------------------------


def _nats(broker: Broker) -> Iterator[Finding]:
    """The server says what it is before anybody has entered."""
    if ConnectorSpec.parse(broker.url).host == "auto":
        from proxyfab.brokers.nats.program import program

        yield Finding("program", "ok", f"{program()}, started for its first user")
        return
    for finding in _way(broker, 4222):
        yield finding
        if finding.state == "fail":
            return
    told: list[Finding] = []
    for address in _hosts(broker, 4222):
        told = list(_told(broker, address))
        if told[-1].state != "fail":
            break
    yield from told


def _told(broker: Broker, address: tuple[str, int]) -> Iterator[Finding]:
    where = f"{address[0]}:{address[1]}"
    try:
        with socket.create_connection(address, _STEP) as link, link.makefile("rb") as lines:
            word, _, text = lines.readline(1 << 16).partition(b" ")
        said = json.loads(text) if word == b"INFO" else {}
    except (OSError, ValueError):
        said = {}
    if not said.get("version"):
        yield Finding("server", "fail", f"what answers at {where} is no nats-server; check the port")
        return
    version = str(said["version"])
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    old = parts < (2, 11)
    hint = "; 2.11 or newer is needed, update it" if old else ""
    yield Finding("version", "fail" if old else "ok", f"nats-server {version} at {where}{hint}")
    tls = dict(ConnectorSpec.parse(broker.url).options).get("tls")
    if said.get("tls_required") and not tls:
        yield Finding("tls", "fail", f"{where} speaks TLS only: add ?tls=1, and &ca=PATH for a certificate of your own")
    if not said.get("jetstream"):
        detail = f"{where} has none of its own: start it with -js, unless others of its cluster or domain have it"
        yield Finding("JetStream", "warn", detail)
    else:
        domain = f", domain {said['domain']}" if said.get("domain") else ""
        yield Finding("JetStream", "ok", f"on{domain}; a message has {size(said.get('max_payload', 0))} at most")


def _nats_room(broker: Broker) -> Iterator[Finding]:
    from proxyfab.brokers.nats.broker import NatsBroker

    broker = broker_of(broker)
    if not isinstance(broker, NatsBroker):
        return
    said = broker.account()
    for what, used, limit in (
        ("disk", said.get("storage", 0), _limit(said, "max_storage")),
        ("memory", said.get("memory", 0), _limit(said, "max_memory")),
    ):
        bound = f"of {size(limit)}" if limit else "the account has no limit"
        shown = f"{size(used)} used, {bound}"
        full = bool(limit) and used > _NEARLY * limit
        hint = "; delete topics, give them a retention or max_bytes, or raise the account's limit" if full else ""
        yield Finding(what, "warn" if full else "ok", shown + hint)
    streams, most = said.get("streams", 0), _limit(said, "max_streams")
    yield Finding(
        "topics", "ok", f"{streams} streams{f' of {most}' if most else ''}, {said.get('consumers', 0)} consumers"
    )


def _limit(said: dict[str, Any], name: str) -> int:
    """0 for none."""
    return max(0, int(said.get("limits", {}).get(name, 0)))


def _redis(broker: Broker) -> Iterator[Finding]:
    from proxyfab.connectors.redis import health
    from proxyfab.resp.place import Place

    return health.diagnose(Place.parse(broker.url)[0])


def _zmq(broker: Broker) -> Iterator[Finding]:
    spec = ConnectorSpec.parse(broker.url)
    if spec.host:
        yield from _way(broker, 0)
    elif os.path.exists(spec.path):
        yield Finding("socket", "ok", spec.path)
    else:
        yield Finding("socket", "fail", f"{spec.path} is not there; start the server with `proxyfab broker {spec}`")


def _kafka(broker: Broker) -> Iterator[Finding]:
    return _way(broker, 9092)


_PLACES: dict[str, Callable[[Broker], Iterator[Finding]]] = {
    "nats": _nats,
    "redis": _redis,
    "rediss": _redis,
    "zmq": _zmq,
    "kafka": _kafka,
}
_KEYS = {
    "nats": "set PROXYFAB_NATS_TOKEN, PROXYFAB_NATS_PASSWORD with ?user=, or PROXYFAB_NATS_CREDS",
    "redis": "set PROXYFAB_REDIS_PASSWORD, or ?password=env:NAME",
    "zmq": "`proxyfab keys` makes and imports keys",
    "kafka": "add ?sasl=, ?user= and ?password=env:NAME",
}


# -- any kind's ------------------------------------------------------------------------------------------------------


def _entry(broker: Broker) -> Iterator[Finding]:
    """Whether we are let in, and how long a question takes."""
    try:
        broker.ping(_STEP)
        took = min(broker.ping(_STEP) for _ in range(5)) * 1e3
    except AccessDenied as error:
        hint = _KEYS.get(broker.url.partition(":")[0], "see who may enter")
        yield Finding("key", "fail", f"{error} ({hint})")
        return
    except ConfigurationError as error:
        yield Finding("version", "fail", str(error))
        return
    except ProxyfabError as error:
        yield Finding("server", "fail", str(error))
        return
    yield Finding("key", "ok", f"{public(broker.url)} lets us in; a question takes {took:.2f} ms")
    lacking = [each.name for each in Capability if each.name and each not in broker.capabilities]
    what = f"all but {', '.join(lacking)}" if lacking else "all of them"
    yield Finding("abilities", "ok", what)


def _round_trip(broker: Broker) -> Iterator[Finding]:
    """One event, as producers and consumers would."""
    topic, body = Topic(f"proxyfab-doctor-{os.urandom(6).hex()}"), os.urandom(_PAYLOAD)
    try:
        broker.ensure(topic)
        broker.ensure_group(topic.name, "doctor")
        started, sent = time.perf_counter(), time.time()
        broker.publish(topic.name, [Record(body, "one")], timeout=_STEP)
        wrong, came = _received(broker, topic.name, body)
        took = (time.perf_counter() - started) * 1e3
        if Capability.STATE in broker.capabilities:
            state = broker.state(topic.name)
            state.put("doctor", body)
            kept = state.get("doctor")
            wrong += [] if kept is not None and kept.value == body else ["state"]
    except ProxyfabError as error:
        yield Finding("round trip", "fail", f"{type(error).__name__}: {error}")
        return
    finally:
        _delete(broker, topic.name)
    if wrong or came is None:
        yield Finding("round trip", "fail", f"wrong answer to {', '.join(wrong)}; report it with the server's version")
        return
    yield _clock(came.time - sent, took)
    yield Finding("round trip", "ok", f"an event of 1 KiB was published, fetched and acknowledged in {took:.1f} ms")


def _received(broker: Broker, topic: str, body: bytes) -> tuple[list[str], Delivery | None]:
    """What went wrong, and what came."""
    member = broker.subscribe(topic, group="doctor")
    try:
        found = member.fetch(1, _STEP)
        member.ack(found)
        member.flush()
    finally:
        member.close()
    if not found:
        return ["fetch"], None
    return ([] if found[0].body == body else ["publish"]), found[0]


def _delete(broker: Broker, topic: str) -> None:
    try:
        broker.delete(topic)
    except ProxyfabError:
        return  # what made this fail has been told, or the topic was never made


def _clock(ahead: float, took: float) -> Finding:
    """The broker's clock by the time of an event, which it took somewhere in the time of the round trip."""
    off = max(0.0, abs(ahead) - took / 1e3)
    if off > _SKEW:
        which = "ahead" if ahead > 0 else "behind"
        hint = "reading from a moment, and retention, go by it; synchronize both"
        return Finding("clock", "warn", f"the broker's clock is {off:.1f} s {which}; {hint}")
    return Finding("clock", "ok", f"differs by less than {max(off, took / 1e3):.3f} s")
