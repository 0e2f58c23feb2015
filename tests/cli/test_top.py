"""`proxyfab top`: once, again and again, as lines, JSON, a table and metrics; while places fail and readers leave."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from proxyfab import Store, registry
from proxyfab.abc import Status
from proxyfab.cli import main
from proxyfab.cli.output import public
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConnectorError

TOP = [sys.executable, "-m", "proxyfab", "top"]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with Store(f"file://{tmp_path}", name="kept", inline_below=0) as store:
        store.put(b"x" * 5000)
        yield f"file://{tmp_path}"


class Busy(MemoryConnector):
    """Moves a mebibyte between two looks; does not answer each third one."""

    scheme: ClassVar[str] = "busy"
    looks: ClassVar[int] = 0

    def status(self) -> Status:
        Busy.looks += 1
        if Busy.looks % 3 == 0:
            raise ConnectorError("The server went away.")
        counters = {"put": 10.0 * Busy.looks, "put_bytes": 2.0**20 * Busy.looks}
        peers = ({"name": "worker-1", "address": "10.0.0.1:5", "get_bytes": 4096.0},)
        return Status("busy://there", 7, 3 * 2**20, 6 * 2**20, counters, peers, time.time() - 100)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(registry._loaded, ("connectors", "busy"), Busy)
    monkeypatch.setattr(Busy, "looks", 0)
    return "busy://"


def run(*arguments: str):
    return CliRunner().invoke(main, ["top", *arguments])


def until_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_once_shows_what_lies_there_per_namespace(url):
    shown = run(url, "--once").output
    assert "1 objects, 4.9 KiB" in shown or "1 objects, 5.0 KiB" in shown
    assert "kept" in shown
    found = json.loads(run(url, "--once", "--json").output)
    assert (found["what"], found["objects"], found["peers"][0]["name"]) == (url, 1, "kept")


def test_once_shows_what_a_server_tells(busy):
    shown = run(busy, "--once").output
    assert "busy://there" in shown
    assert "7 objects, 3.0 MiB of 6.0 MiB (50 %)" in shown
    assert "worker-1" in shown
    assert "up 2 min" in shown or "up 100 s" in shown


def test_what_has_no_holdings_to_tell_of_is_an_error(monkeypatch):
    monkeypatch.setitem(registry._loaded, ("connectors", "mute"), type("Mute", (MemoryConnector,), {"scan": None}))
    done = run("mute://", "--once")
    assert done.exit_code == 1
    assert "neither tell its status nor list" in done.output


def test_lines_with_rates_while_the_place_answers_now_and_then(busy, monkeypatch):
    """Driven inside this process until enough was seen; each line is one look."""
    lines: list[str] = []
    errors: list[str] = []

    def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
        (errors if err else lines).append(text)
        if len(lines) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("proxyfab.cli.top.click.echo", echo)
    done = run(busy, "--interval", "0.1")

    assert done.exit_code == 0
    assert len(errors) == 1
    assert "went away" in errors[0]
    assert "/s=" not in lines[0]
    assert all(re.search(r"objects=7 bytes=3145728 limit=6291456 peers=1 put/s=\d", line) for line in lines[1:])


def test_json_lines_and_a_clean_end_at_an_interrupt(url):
    with subprocess.Popen([*TOP, url, "--interval", "0.1", "--json"], stdout=subprocess.PIPE, text=True) as process:
        try:
            found = [json.loads(line) for line in until_lines(process, 3)]
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert [look["objects"] for look in found] == [1, 1, 1]


def test_a_reader_that_has_seen_enough_ends_it(url):
    with subprocess.Popen(
        [*TOP, url, "--interval", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until_lines(process, 1)
            process.stdout.close()
            assert process.wait(20) == 1
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_gets_a_table_that_is_drawn_anew(url, end):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([*TOP, url, "--interval", "0.1"], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        try:
            deadline = time.monotonic() + 20
            while seen.count(b"1 objects") < 3 and time.monotonic() < deadline:
                if select.select([ours], [], [], 1)[0]:
                    seen += os.read(ours, 65536)
            process.send_signal(end)
            while select.select([ours], [], [], 5)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # the terminal's other end is closed
                    break
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(ours)
    assert seen.count(b"1 objects") >= 3
    assert b"kept" in seen
    assert b"Traceback" not in seen
    assert b"\x1b[?25h" in seen, "the cursor is shown again"


def test_metrics_are_printed(busy, url):
    shown = run(busy, "--prometheus", "-").output
    assert 'proxyfab_held_bytes{place="busy://"} 3.145728e+06' in shown
    assert 'proxyfab_place_put_bytes_total{place="busy://"}' in shown
    assert f'proxyfab_held_objects{{place="{url}"}} 1.0' in run(url, "--prometheus", "-").output


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_until_told_to_end(url, end):
    with subprocess.Popen([*TOP, url, "--prometheus", "0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            where = process.stderr.readline().split()[-1]
            assert where.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(where, timeout=20) as answer:
                assert "version=0.0.4" in answer.headers["Content-Type"]
                assert "proxyfab_up" in answer.read().decode()
            process.send_signal(end)
            assert process.wait(20) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_an_address_that_is_none_or_taken(url):
    assert run(url, "--prometheus", "nonsense").exit_code == 2
    taken = run(url, "--prometheus", "192.0.2.1:80")
    assert taken.exit_code == 1
    assert "choose another" in taken.output


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://me:a@b:c@host", "redis://me:***@host"),
        ("redis://host?password=s3cret&db=1", "redis://host?password=***&db=1"),
        ("redis://host?password=env:NAME", "redis://host?password=env:NAME"),
        ("file:///a@b:c/d", "file:///a@b:c/d"),
    ],
)
def test_a_password_that_was_typed_is_not_shown(typed, shown):
    assert public(typed) == shown
