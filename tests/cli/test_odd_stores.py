"""Commands over keys, times and pipes that are not as usual."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.cli import main
from proxyfab.connectors import FileConnector
from proxyfab.keys import Key

ODD = ["[red]alarm[/red]", "[/closed] before it was opened", "-dash", "ünïcode", "a/b", "=", "..", "x" * 200]


@pytest.fixture
def url(tmp_path: Path) -> str:
    with FileConnector(tmp_path / "odd", name="odd") as connector:
        for id in ODD:
            connector.put(Frames([b"not a payload"]), key=Key(id))
        connector.put(Frames([b"x"]), key=Key("for ever"), ttl=float("inf"))
    return f"file://{tmp_path}/odd"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_keys_are_shown_as_they_are(url: str) -> None:
    listed = run("ls", url)
    assert listed.exit_code == 0
    assert all(any(line.strip().startswith(id) for line in listed.output.splitlines()) for id in ODD)


@pytest.mark.parametrize("id", ODD)
def test_damaged_ones_are_inspected(url: str, id: str) -> None:
    found = run("inspect", "--json", "--", f"{id}@/odd", url)
    assert found.exit_code == 1
    assert strictly(found.stdout)["intact"] is False
    assert run("inspect", "--", f"{id}@/odd", url).exit_code == 1


def test_json_has_no_infinity(url: str) -> None:
    assert [row["expires"] for row in strictly(run("ls", "--json", url).output)] == [None] * (len(ODD) + 1)


def test_what_is_piped_has_a_line_for_each_object(url: str) -> None:
    piped = subprocess.run(
        [sys.executable, "-m", "proxyfab", "ls", url], capture_output=True, text=True, check=True, timeout=60
    )
    assert len(piped.stdout.splitlines()) == len(ODD) + 2
    assert piped.stderr == ""
    assert all(line == line.rstrip() for line in piped.stdout.splitlines())


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["du"], ["gc"], ["doctor"]])
def test_a_reader_that_has_seen_enough(url: str, words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "proxyfab", *words, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=60)[1] == b""


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["du"], ["gc"]])
def test_a_full_disk_is_said_in_a_line(url: str, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "proxyfab", *words, url],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "nosuch://"],
        ["du", "file://relative"],
        ["gc", "shm://a/b"],
        ["inspect", "", "shm://"],
        ["bench", "--sizes", "1 KB,many"],
        ["bench", "--rounds", "0"],
        ["ls", ""],
    ],
)
def test_a_wrong_call_is_2(words: list[str]) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert done.output
    assert isinstance(done.exception, SystemExit)


def test_bench_leaves_nothing(tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}", inline_below=0) as store:
        run("bench", f"file://{tmp_path}", "--sizes", "1 KB", "--rounds", "1")
        assert list(store.connector.scan()) == []  # type: ignore[attr-defined]  # a file connector can
