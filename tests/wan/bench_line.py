"""What a link carries over an emulated way: `python -m tests.wan.bench_line --loss 0.001 --streams 8`.

For root. Prints one JSON line: megabits a second of each of some gets, and the time of small ones.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.link.doors import Hello, knock, open_door, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.line import Line
from proxyfab.link.streams import Stream
from proxyfab.wan.emulator import enter
from tests.wan.measuring import FAR, child, parser, two_ends

SECRETS = {"near": bytes(range(32)), "far": bytes(range(1, 33))}
LINK = bytes(16)


def public(name: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(SECRETS[name]).public_key().public_bytes_raw()


def control(connection: socket.socket, name: str) -> None:
    if name:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def serve(namespace: str, congestion: str, sizes: list[int]) -> None:
    enter(namespace)
    values = {str(size): os.urandom(size) for size in sizes}
    line = Line("near", lambda key: Frames([values[(key if key.__class__ is str else key[4]).split(":")[0]]]))
    identity = Identity("far", SECRETS["far"], {"near": public("near")})
    with socket.create_server(("", 7000), backlog=64) as door:
        print("ready", flush=True)
        while True:
            plain, _ = door.accept()
            connection, hello = open_door(identity, plain, timeout=20)
            control(connection, congestion)
            welcome(connection, fresh=False, timeout=20)
            line.join(hello.stream, partial(Stream, hello.stream, connection))


def measure(namespace: str, congestion: str, streams: int, sizes: list[int], rounds: int) -> dict[str, Any]:
    enter(namespace)
    line = Line("far", lambda key: None)
    identity = Identity("near", SECRETS["near"], {"far": public("far")})
    begun = time.monotonic()
    for number in range(streams):
        connection, _ = knock(identity, "far", (FAR, 7000), Hello("near", LINK, number), timeout=30)
        control(connection, congestion)
        line.join(number, partial(Stream, number, connection))
    found: dict[str, Any] = {"opening, s": round(time.monotonic() - begun, 3)}
    for size in sizes:
        seconds = []
        for turn in range(rounds + 1):
            started = time.monotonic()
            (outcome,) = line.get_many([f"{size}:{turn}"], 120)
            seconds.append(time.monotonic() - started)
            assert outcome.frames is not None
            assert outcome.frames.nbytes == size
        warm = seconds[1:]
        found[f"{size} B, s"] = [round(each, 4) for each in seconds]
        found[f"{size} B, Mbit/s"] = round(size * 8e-6 / statistics.median(warm))
    started = time.monotonic()
    outcomes = line.get_many([f"1024:{turn}" for turn in range(1000)], 60)
    found["1,000 x 1 KiB, s"] = round(time.monotonic() - started, 4)
    assert all(outcome.frames is not None for outcome in outcomes)
    line.close()
    return found


def main() -> None:
    options = parser(__doc__, delay=0.025)
    options.add_argument("--serve", default="")
    given = options.parse_args()
    sizes = [int(each) for each in given.sizes.split(",")]
    if given.serve:
        serve(given.serve, given.congestion, [*sizes, 1024])
        return
    with two_ends(given) as (near, far):
        how = ["--serve", far, "--sizes", given.sizes, "--congestion", given.congestion]
        other = child(["-m", "tests.wan.bench_line", *how])
        try:
            found = measure(near, given.congestion, given.streams, sizes, given.rounds)
            print(json.dumps({**vars(given), **found}))
        finally:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
