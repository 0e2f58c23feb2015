"""What the processes of a run do at a stream until they are killed, or until it is over; all they see is written down.

| role | group | what it shows |
|---|---|---|
| `produce` | | each call is a batch that was sent and flushed; answered, it is acknowledged |
| `consume` | plain | at least once, shared by several members |
| `consume` | ordered | at least once, in order for each key across its members |
| `relay` | relay | effectively once, into another topic |

Promises: an event is named by the process that sent it and a number that grows; its object says that name and a digest.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.patterns.stream import Checkpoint, Consumer, Producer
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.outputs import Output
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.history import Log

ABOVE = 4096
"""Bytes from which on an object is stored."""
KEYS = 3
PLAIN, ORDERED, RELAY, CHECK = "plain", "ordered", "relay", "check"
_SMALL, _LARGE = 200, (8_000, 60_000)
_BATCHES = (1, 1, 2, 10)
_COMMITS = (1, 5, 20)
_ATTEMPTS = 100_000
"""Who is killed with an event in his hand says nothing against the event."""


class Job(NamedTuple):
    """What one process is to do.

    Args:
        where: Directory of the logs.
        over: A file that is there as soon as producers shall end their streams.
        who: Its own name.
        slot: The name of the producer that it goes on as, or the group of the consumer.
        seed: Of everything random.
        broker: URL of the broker.
        topic: Where events go.
        output: Where relayed ones go.
        store: URL of the objects' place.
        ack_wait: Seconds to settle an event.
        timeout: Seconds for which a producer tries.
        pause: Seconds between two batches at most.
    """

    where: Path
    over: Path
    who: str
    slot: str
    seed: str
    broker: str
    topic: str
    output: str
    store: str
    ack_wait: float
    timeout: float
    pause: float


def produce(job: Job) -> None:
    """Send batches until told that it is over; then end the stream."""
    log, dice, clock = Log(job.where, job.who), random.Random(job.seed), threading.Event()
    out = _producer(job)
    number = 0
    while not job.over.exists():
        count = dice.choice(_BATCHES)
        ids = [f"{job.who}:{number + one}" for one in range(count)]
        number += count
        log.call("send", ids, partial(_send, out, ids, dice))
        clock.wait(dice.uniform(0, job.pause))
    while log.call("end", [job.slot], partial(_end, out)) is None:
        clock.wait(0.1)
        out = _producer(job)
    log.close()


def _producer(job: Job) -> Producer:
    return Producer(job.broker, job.topic, store=job.store, name=job.slot, above=ABOVE, timeout=job.timeout)


def _send(out: Producer, ids: Sequence[str], dice: random.Random) -> list[str]:
    receipts = []
    for id in ids:
        draw = dice.random()
        data = content(id, _SMALL if draw < 0.6 else dice.choice(_LARGE))
        obj: Any = [data] if 0.4 < draw < 0.6 else data  # as it is, serialized into the event, or stored
        receipts.append(out.send(obj, key=f"{out.name}.{int(id.rpartition(':')[2]) % KEYS}", about=id))
    out.flush()
    return [str(receipt.result(0)) for receipt in receipts]


def _end(out: Producer) -> list[str]:
    out.end()
    return ["true"]


def content(id: str, nbytes: int) -> bytes:
    """An object that knows whose it is."""
    return f"{id:40s}".encode() + signed(nbytes, len(id)).tobytes()


def judged(item: Item) -> list[str]:
    """Whether an event's object is what was sent."""
    found = item.get()
    data = found[0] if isinstance(found, list) else found
    right = bytes(data[:40]).decode().strip() == item.metadata["about"]
    return ["whole" if right and is_whole(Frames([data[40:]])) else "torn"]


def consume(job: Job) -> None:
    """Look at each event, acknowledge it, until the stream is over."""
    log = Log(job.where, job.who)
    trouble: list[Exception] = []
    try:
        _consume(job, log)
    except Exception as error:  # noqa: BLE001 - whatever ends it is in the history
        trouble.append(error)
    log.call("over", [job.slot], partial(_over, trouble))
    log.close()


def _over(trouble: list[Exception]) -> list[str]:
    for error in trouble:
        raise error
    return ["true"]


def _consume(job: Job, log: Log) -> None:
    ordered = job.slot == ORDERED
    with Consumer(
        job.broker, job.topic, group=job.slot, ack_wait=job.ack_wait, attempts=_ATTEMPTS, ordered=ordered
    ) as consumer:
        for item in consumer:
            log.call("take", [item.metadata["about"]], partial(judged, item))
            item.ack()


def relay(job: Job) -> None:
    """Send each event on to the output, effectively once, until the stream is over."""
    log, dice = Log(job.where, job.who), random.Random(job.seed)
    while True:
        try:
            _relay(job, log, dice)
            break
        except ConnectorError:  # whether that was committed the checkpoint knows
            continue
    log.call("over", [job.slot], lambda: ["true"])
    log.close()


def _relay(job: Job, log: Log, dice: random.Random) -> None:
    with (
        Consumer(
            job.broker, job.topic, group=RELAY, ack_wait=job.ack_wait, attempts=_ATTEMPTS, ordered=True
        ) as consumer,
        Checkpoint(consumer, RELAY, initial=0, store=job.store, above=ABOVE, timeout=job.timeout) as point,
    ):
        count, outputs, ids = int(point.state), [], []
        want = dice.choice(_COMMITS)
        for item in point:
            id = item.metadata["about"]
            if log.call("take", [id], partial(judged, item)) is None:
                continue
            ids.append(id)
            outputs.append(Output(job.output, item.get(), {"about": id}, key=item.key))
            if len(outputs) >= want:
                count += len(outputs)
                _commit(log, point, count, outputs, ids)
                outputs, ids, want = [], [], dice.choice(_COMMITS)
        _commit(log, point, count + len(outputs), outputs, ids, end=True)
        point.flush()


def _commit(
    log: Log, point: Checkpoint, count: int, outputs: list[Output], ids: list[str], *, end: bool = False
) -> None:
    def act() -> list[str]:
        point.commit(count, outputs, end=end)
        return ["true"] * max(len(ids), 1)

    if log.call("commit", ids or ["nothing"], act) is None:
        raise ConnectorError("The commit is not known to be one.")
