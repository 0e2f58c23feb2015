"""Places that are not there: `doctor` makes none of them, and who lists one is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxyfab import Store
from proxyfab.cli import main

KEY = "0123456789abcdef0123456789abcdef"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def tree(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def doctor(url: str, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    """In a process of its own: what it leaves behind is what there is when it has ended."""
    words = [sys.executable, "-m", "proxyfab", "doctor", url, "--json"]
    done = subprocess.run(words, capture_output=True, env=os.environ | environment, timeout=60, check=False)
    return done.returncode, {item["check"]: item for item in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "url",
    [
        "file://{}/typo/deep",
        "file://{}",
        "zstd+file://{}/typo",
        "tiers://?to=memory://&to=file://{}/typo",
        "routed://?to=memory://;below=1KB&to=file://{}/typo",
        "bounded://?limit=1MiB&slow=file://{}/typo",
    ],
)
def test_doctor_makes_no_place_and_says_who_would(tmp_path: Path, url: str) -> None:
    (tmp_path / "others").write_text("x")
    status, found = doctor(url.format(tmp_path))
    assert status == 0, found
    assert tree(tmp_path) == ["others"]
    assert found["round trip"]["state"] == "warn"
    assert "the first put" in found["round trip"]["detail"]


def test_doctor_of_a_place_in_use_leaves_it_as_it_was(tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}", name="kept", inline_below=0) as kept:
        kept.put(b"x" * 100)
        before = tree(tmp_path)
        for url in (f"file://{tmp_path}", f"file://{tmp_path}?ns=kept"):
            status, found = doctor(url)
            assert (status, found["round trip"]["state"]) == (0, "ok")
            assert tree(tmp_path) == before
        assert doctor(f"file://{tmp_path}?ns=typo")[1]["round trip"]["state"] == "warn"
        assert tree(tmp_path) == before


def test_doctor_tries_shared_memory_where_no_store_was_yet(tmp_path: Path) -> None:
    status, found = doctor("shm://", PROXYFAB_SHM_DIR=str(tmp_path / "shm"))
    assert (status, found["round trip"]["state"]) == (0, "ok")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["du"], ["gc"], ["gc", "-n"], ["inspect", KEY]])
def test_a_place_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "shm"))
    for place in ("shm://", f"file://{tmp_path}/place"):
        with Store(place, name="kept", inline_below=0) as store:
            store.put(b"x")
    (tmp_path / "empty").mkdir()
    for url, says in [
        (f"file://{tmp_path}/typo", f"{tmp_path}/typo does not exist"),
        (f"zstd+file://{tmp_path}/typo", f"{tmp_path}/typo does not exist"),
        (f"tiers://?to=memory://&to=file://{tmp_path}/typo", f"{tmp_path}/typo does not exist"),
        (f"file://{tmp_path}/empty", f"{tmp_path}/empty is no place of a store"),
        (f"file://{tmp_path}/place?ns=typo", "kept"),
        ("shm://typo", "no store 'typo': there are kept"),
    ]:
        done = run(*words, url)
        assert done.exit_code == 1, url
        assert says in done.output, url
    assert tree(tmp_path / "empty") == []
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("command", ["ls", "du", "gc"])
def test_this_machines_shared_memory_is_empty_before_its_first_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Nobody typed a place that could be wrong."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "shm"))
    assert run(command).exit_code == 0


def test_what_of_several_places_is_there_is_listed(tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}/one", name="kept", inline_below=0) as store:
        store.put(b"x")
        url = f"routed://?to=file://{tmp_path}/one;below=1KB&to=file://{tmp_path}/two"
        assert len(json.loads(run("ls", url, "--json").output)) == 1
