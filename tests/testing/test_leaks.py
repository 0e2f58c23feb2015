"""What a test leaves behind is seen; what is not left is not."""

from __future__ import annotations

import os
import socket
import subprocess
import threading

from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.testing import leaked_keys
from proxyfab.testing.leaks import Belongings, _told


def test_a_descriptor_a_thread_and_a_child_are_seen() -> None:
    before = Belongings.now()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    reading, writing = os.pipe()
    child = subprocess.Popen(["sleep", "60"])
    try:
        said = "\n".join(Belongings.now().since(before))
    finally:
        child.kill()
        child.wait()
        os.close(reading)
        os.close(writing)
        stop.set()
        thread.join()

    assert "thread 'left-behind'" in said
    assert said.count("file descriptor of pipe") == 2
    assert f"child process {child.pid}" in said
    assert Belongings.now().since(before) == []


def test_of_a_connection_its_ends_are_told() -> None:
    before = Belongings.now()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        here, there = one.getsockname()[1], server.getsockname()[1]
        said = [_told(what) for what in Belongings.now().since(before)]

    assert any(what.endswith(f"from port {here} to port {there}") for what in said)


def test_left_keys_are_told() -> None:
    with MemoryConnector() as one:
        one.put(Frames([b"before"]))
        with leaked_keys(one) as left:
            kept = one.put(Frames([b"kept"]))
            one.evict(one.put(Frames([b"gone"])))

        assert left == [str(kept)]
