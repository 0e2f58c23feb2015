"""What a link carries over an emulated way: `python -m tests.wan.bench_line --loss 0.001 --streams 8`.

For root. Prints one JSON line: megabits a second of each of some gets, and the time of small ones.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.link.doors import Hello, knock, open_door, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.line import Line
from proxyfab.link.streams import Stream
from tests.wan.emulator import enter

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
    line = Line("near", lambda key: Frames([values[key.split(":")[0]]]))
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
        connection, _ = knock(identity, "far", ("192.0.2.2", 7000), Hello("near", LINK, number), timeout=30)
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.025)
    parser.add_argument("--rate", type=float, default=1e9)
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--congestion", default="")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--sizes", default="1048576,33554432")
    parser.add_argument("--serve", default="")
    given = parser.parse_args()
    sizes = [int(each) for each in given.sizes.split(",")]
    if given.serve:
        serve(given.serve, given.congestion, [*sizes, 1024])
        return
    names = [f"pf{os.getpid() % 10000}{side}" for side in "ab"]
    processes = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        ends = [(names[0], "wan", "192.0.2.1/30"), (names[1], "wan", "192.0.2.2/30")]
        way = {"ends": ends, "delay": given.delay, "rate": given.rate, "loss": given.loss, "mtu": given.mtu}
        processes.append(_child(["tests/wan/emulator.py", json.dumps(way)]))
        options = ["--serve", names[1], "--sizes", given.sizes, "--congestion", given.congestion]
        processes.append(_child(["-m", "tests.wan.bench_line", *options]))
        found = measure(names[0], given.congestion, given.streams, sizes, given.rounds)
        print(json.dumps({**vars(given), **found}))
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def _child(command: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


if __name__ == "__main__":
    main()
