"""What ProxyStore's transport between sites carries over the same way: `python -m tests.wan.bench_aiortc --loss 0.001`.

For root. A WebRTC data channel by aiortc, unordered, in chunks of 32 KiB, as ProxyStore's endpoints use it; the two
ends learn of each other through pipes. Prints one JSON line, as `bench_line` does.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from proxyfab.wan.emulator import enter
from tests.wan.measuring import child, parser, two_ends

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCSessionDescription

CHUNK = 32 << 10
"""Bytes of a message, as in ProxyStore 1.1."""
_ROOM = 4 << 20
"""Bytes that the channel may hold before more is handed to it."""


def said(description: RTCSessionDescription) -> str:
    return json.dumps({"sdp": description.sdp, "type": description.type})


def heard(line: str) -> RTCSessionDescription:
    from aiortc import RTCSessionDescription  # here, as in the functions below: this file is collected where it is not

    return RTCSessionDescription(**json.loads(line))


async def send(channel: RTCDataChannel, nbytes: int) -> None:
    chunk = bytes(CHUNK)
    for begin in range(0, nbytes, CHUNK):
        while channel.bufferedAmount > _ROOM:
            await asyncio.sleep(0.001)
        channel.send(chunk[: min(CHUNK, nbytes - begin)])


async def serve(namespace: str) -> None:
    from aiortc import RTCPeerConnection

    enter(namespace)
    print("ready", flush=True)
    connection = RTCPeerConnection()
    tasks = set()

    @connection.on("datachannel")
    def opened(channel: RTCDataChannel) -> None:
        @channel.on("message")
        def asked(size: str) -> None:
            tasks.add(asyncio.ensure_future(send(channel, int(size))))

    await connection.setRemoteDescription(heard(await asyncio.to_thread(sys.stdin.readline)))
    await connection.setLocalDescription(await connection.createAnswer())
    print(said(connection.localDescription), flush=True)
    await asyncio.Event().wait()


async def measure(other: subprocess.Popen[str], sizes: list[int], rounds: int) -> dict[str, Any]:
    from aiortc import RTCPeerConnection

    assert other.stdin is not None
    assert other.stdout is not None
    connection = RTCPeerConnection()
    channel = connection.createDataChannel("objects", ordered=False)
    is_open, arrived, left = asyncio.Event(), asyncio.Event(), 0
    channel.on("open", is_open.set)

    @channel.on("message")
    def came(chunk: bytes) -> None:
        nonlocal left
        left -= len(chunk)
        if left <= 0:
            arrived.set()

    begun = time.monotonic()
    await connection.setLocalDescription(await connection.createOffer())
    other.stdin.write(said(connection.localDescription) + "\n")
    other.stdin.flush()
    await connection.setRemoteDescription(heard(await asyncio.to_thread(other.stdout.readline)))
    await asyncio.wait_for(is_open.wait(), 30)
    found: dict[str, Any] = {"opening, s": round(time.monotonic() - begun, 3)}
    for size in sizes:
        seconds = []
        for _ in range(rounds + 1):
            left = size
            arrived.clear()
            started = time.monotonic()
            channel.send(str(size))
            await asyncio.wait_for(arrived.wait(), 300)
            seconds.append(time.monotonic() - started)
        found[f"{size} B, s"] = [round(each, 4) for each in seconds]
        found[f"{size} B, Mbit/s"] = round(size * 8e-6 / statistics.median(seconds[1:]))
    await connection.close()
    return found


def main() -> None:
    options = parser(__doc__, delay=0.025)
    options.add_argument("--serve", default="")
    given = options.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    with two_ends(given) as (near, far):
        other = child(["-m", "tests.wan.bench_aiortc", "--serve", far])
        try:
            enter(near)
            found = asyncio.run(measure(other, [int(size) for size in given.sizes.split(",")], given.rounds))
            print(json.dumps({**vars(given), **found}))
        finally:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
