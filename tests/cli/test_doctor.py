"""`proxyfab doctor` at places that are broken: it says what is wrong, what to do, and ends in time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest
from click.testing import CliRunner

from proxyfab import Store, registry
from proxyfab.abc import Finding
from proxyfab.cli import main
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConnectorError


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(main, ["doctor", *arguments, "--json"])
    return done.exit_code, {item["check"]: item for item in json.loads(done.output)}


class Stuck(MemoryConnector):
    """Says its name, then hangs where it is told to."""

    scheme: ClassVar[str] = "stuck"
    where: ClassVar[str] = "diagnose"
    released: ClassVar[threading.Event] = threading.Event()

    def diagnose(self) -> Iterator[Finding]:
        yield Finding("name", "ok", "stuck")
        if self.where == "diagnose":
            self.released.wait(30)

    def get(self, key):
        if self.where == "get":
            self.released.wait(30)
        if self.where == "bug":
            raise IndexError("tuple index out of range")
        if self.where == "error":
            raise ConnectorError("The server went away; start it again.")
        return super().get(key) if self.where != "loss" else None


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stuck]]:
    monkeypatch.setitem(registry._loaded, ("connectors", "stuck"), Stuck)
    monkeypatch.setattr(Stuck, "released", threading.Event())
    yield Stuck
    Stuck.released.set()


@pytest.mark.parametrize(("where", "check"), [("diagnose", "stuck"), ("get", "round trip")])
def test_a_place_that_hangs_is_told_within_the_timeout(stuck, monkeypatch, where, check):
    monkeypatch.setattr(stuck, "where", where)
    started = time.monotonic()
    status, found = doctor("stuck://", "--timeout", "0.3")

    assert time.monotonic() - started < 10
    assert status == 1
    assert found["name"]["state"] == "ok"
    assert found[check]["state"] == "fail"
    assert "no answer within 0.3 s" in found[check]["detail"]


@pytest.mark.parametrize(
    ("where", "check", "says"),
    [
        ("error", "round trip", "start it"),
        ("loss", "round trip", "get"),
        ("bug", "round trip", "unexpected IndexError"),
    ],
)
def test_a_round_trip_that_fails_or_lies(stuck, monkeypatch, where, check, says):
    monkeypatch.setattr(stuck, "where", where)
    status, found = doctor("stuck://")

    assert status == 1
    assert found[check]["state"] == "fail"
    assert says in found[check]["detail"]


def test_after_a_failed_step_no_object_is_put(tmp_path):
    (tmp_path / "taken").write_text("x")
    status, found = doctor(f"file://{tmp_path}/taken")

    assert status == 1
    assert found["directory"]["state"] == "fail"
    assert "round trip" not in found


def test_a_scheme_whose_package_is_missing_is_a_finding_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(registry._BUILT_IN["connectors"], "absent", ("no_such_package_here", "Nothing", "absent"))
    status, found = doctor("absent://")

    assert status == 1
    assert "pip install 'proxyfab[absent]'" in found["absent"]["detail"]


def test_a_seal_whose_key_is_not_here_and_one_that_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    url = f"file://{tmp_path}/place#seal=encrypt:lab"
    with Store(f"file://{tmp_path}/place", inline_below=0) as store:
        store.put(b"x")
    status, found = doctor(url)
    assert status == 1
    assert "proxyfab keys make" in found["round trip"]["detail"]
    assert CliRunner().invoke(main, ["keys", "make", "symmetric", "lab"]).exit_code == 0
    status, found = doctor(url)
    assert status == 0, found
    assert "sealed (encrypt:lab)" in found["round trip"]["detail"]


def test_a_url_that_makes_no_sense_is_a_wrong_call():
    assert CliRunner().invoke(main, ["doctor", "nosuch://"]).exit_code == 2
    assert CliRunner().invoke(main, ["doctor", "shm://?nosuch=1"]).exit_code == 2
