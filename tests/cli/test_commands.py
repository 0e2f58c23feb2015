"""The command line: each command over real stores, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from proxyfab import Store
from proxyfab.cli import main


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}"


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_ls_and_du_show_what_lies_there(url):
    """All namespaces of the place, named and ephemeral."""
    with Store(url, inline_below=0) as store, Store(url, name="kept", inline_below=0) as kept:
        key, other = store.put(b"x" * 5000), kept.put(b"y" * 100, ttl=3600)
        rows = {row["key"]: row for row in json.loads(run("ls", url, "--json").output)}
        assert rows[str(key)]["nbytes"] >= 5000
        assert rows[str(other)]["expires"] > rows[str(other)]["created"]
        assert "kept" in run("ls", url).output
        sums = {row["namespace"]: row for row in json.loads(run("du", url, "--json").output)}
        assert sums["kept"]["objects"] == 1
        assert "total" in run("du", url).output


def test_inspect_tells_the_type_without_unpickling(url):
    """Type, codec, buffers and whether the bytes are intact."""
    with Store(url, inline_below=0) as store:
        key = store.put({"a": 1})
        found = json.loads(run("inspect", str(key), url, "--json").output)
        assert found["type"] == "builtins:dict"
        assert found["intact"] is True
        store.evict(key)
        missing = run("inspect", str(key), url)
        assert missing.exit_code == 1
        assert "proxyfab ls" in missing.output


def test_gc_reports_and_reclaims(url):
    """What a killed process left is listed with its reason, then gone."""
    script = f"""
import os, signal
from proxyfab import Store
store = Store({url!r}, inline_below=0)
print(store.put(b"x" * 5000), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert killed.stdout
    planned = json.loads(run("gc", url, "--dry-run", "--json").output)
    assert planned
    assert all(item["reason"] for item in planned)
    done = run("gc", url)
    assert "reclaimed" in done.output
    assert done.exit_code == 0
    assert json.loads(run("ls", url, "--json").output) == []


def test_doctor_is_well_here(url):
    """And says what it looked at."""
    result = run("doctor", url, "--json")
    found = {item["check"]: item for item in json.loads(result.output)}
    assert result.exit_code == 0
    assert {item["state"] for item in found.values()} <= {"ok", "warn"}
    assert {"python", "packages", "permission", "round trip"} <= set(found)


def test_doctor_finds_a_broken_place(tmp_path):
    """A path that is a file is no store."""
    (tmp_path / "taken").write_text("x")
    result = run("doctor", f"file://{tmp_path}/taken")
    assert result.exit_code == 1
    assert "fail" in result.output


def test_bench_measures(url):
    """Medians for each size."""
    rows = json.loads(run("bench", url, "--sizes", "1 KB,100 KB", "--rounds", "2", "--json").output)["rows"]
    assert [row["bytes"] for row in rows] == [1000, 100_000]
    assert all(row["get_seconds"] > 0 for row in rows)


def test_bench_needs_a_place_that_two_processes_reach():
    result = run("bench", "memory://")
    assert result.exit_code == 2
    assert "memory of one process" in result.output


def test_wrong_calls():
    """An unknown scheme and an unknown command are wrong calls (2); neither shows a traceback."""
    assert run("ls", "nosuch://").exit_code == 2
    assert "nosuch" in run("ls", "nosuch://").output
    assert run("nosuch").exit_code == 2


@pytest.mark.parametrize("command", ["ls", "du", "gc", "inspect", "doctor", "bench"])
def test_help(command):
    """Every command explains itself."""
    assert run(command, "--help").exit_code == 0


def test_what_the_demo_cannot_do_is_told_whole():
    called = [sys.executable, "-m", "proxyfab", "demo", "--store", "shm://[demo]"]

    done = subprocess.run(called, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("ConfigurationError: '[demo]' cannot name a store"), "brackets are no markup"
    assert done.stderr.count("\n") == 1
