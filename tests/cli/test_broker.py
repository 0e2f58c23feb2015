"""`proxyfab broker`: runs until it is told to stop, says where, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxyfab.brokers.opening import open_broker
from proxyfab.events.model import Record, Topic
from proxyfab.testing import until

COMMAND = [sys.executable, "-m", "proxyfab", "broker"]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("url", ["nats://127.0.0.1:0", "zmq://127.0.0.1:0"])
def test_it_runs_until_it_is_told_to_stop(url: str, number: int) -> None:
    with start(url, "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        with open_broker(said["url"]) as broker:
            broker.ensure(Topic("t"))
            broker.publish("t", [Record(b"x")])
            assert broker.describe("t").records == 1
        process.send_signal(number)
        assert process.wait(30) == 0
        assert gone(said.get("server", process.pid))


def test_what_it_keeps_is_there_again(tmp_path: Path) -> None:
    for records in (1, 2):
        with start("nats://127.0.0.1:0?sync=always", "--store-dir", str(tmp_path)) as process:
            assert process.stdout is not None
            with open_broker(process.stdout.readline().strip()) as broker:
                broker.ensure(Topic("t"))
                broker.publish("t", [Record(b"x")])
                assert broker.describe("t").records == records
            process.terminate()
            assert process.wait(30) == 0


def test_its_server_does_not_outlive_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # who is killed leaves his files
    with start("nats://127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.kill()
        assert until(lambda: gone(said["server"]))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://0.0.0.0:0", "reached from elsewhere"),
        ("nats://127.0.0.1", "is not like"),
        ("redis://127.0.0.1", "for nats:// and zmq://"),
    ],
)
def test_what_makes_no_sense_is_said(url: str, words: str) -> None:
    with start(url) as process:
        assert process.wait(30) == 2
        assert process.stderr is not None
        assert words in process.stderr.read()


def test_a_server_that_does_not_start_says_why_in_a_line() -> None:
    done = subprocess.run(
        [*COMMAND, "nats://127.0.0.1:66000"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "address 66000: invalid port" in done.stderr
    assert (len(done.stderr.splitlines()), "[INF]" in done.stderr) == (1, False), done.stderr
