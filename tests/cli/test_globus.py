"""`proxyfab globus`: services and persons log in, and the self-test says what works; the real SDK, a local server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxyfab.cli.main import main
from proxyfab.testing.globus import GlobusServer

pytest.importorskip("globus_sdk")
A, B = (str(uuid.UUID(int=number)) for number in (30, 31))
SCOPES = "openid urn:globus:auth:scope:transfer.api.globus.org:all"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusServer]:
    with GlobusServer({A: tmp_path / "a", B: tmp_path / "b"}) as server:
        names = {"PROXYFAB_GLOBUS_COLLECTION": A, "PROXYFAB_GLOBUS_TOKENS": str(tmp_path / "tokens" / "t.json")}
        for name, value in (server.environment | names).items():
            monkeypatch.setenv(name, value)
        yield server


def url(server: GlobusServer) -> str:
    return "globus://?ns=tried&" + "&".join(f"at={site},/fab,{at}/fab" for site, at in server.collections.items())


def globus(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["globus", *arguments], input=typed)


def states(done: Result) -> dict[str, str]:
    return {finding["check"]: finding["state"] for finding in json.loads(done.stdout)}


def test_a_service_needs_no_login_and_all_works(server: GlobusServer) -> None:
    assert "a service needs no login" in globus("login", url(server)).output

    done = globus("selftest", url(server), "--json")
    assert done.exit_code == 0
    assert states(done) == {"put": "ok", "sent": "ok", "evicted": "ok"}
    assert not any(
        path.is_file() for site in (A, B) for path in (server.collections[site] / "fab/objects").rglob("*~*")
    )
    assert not any((place / "fab/objects/tried").exists() for place in server.collections.values())


def test_a_person_types_a_code_once(server: GlobusServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROXYFAB_GLOBUS_CLIENT_SECRET")
    done = globus("login", url(server), typed=f"{server.agree(SCOPES)}\n")
    assert "/v2/oauth2/authorize?" in done.output
    assert "tokens are in" in done.output
    assert (tmp_path / "tokens/t.json").stat().st_mode & 0o077 == 0

    server.expire_tokens()  # the refresh token brings others
    assert states(globus("selftest", url(server), "--json")) == {"put": "ok", "sent": "ok", "evicted": "ok"}


@pytest.mark.parametrize("place", ["shm://", f"globus://?at={A},/x"])
def test_what_is_no_place_of_globus_is_refused(place: str) -> None:
    assert globus("login", place).exit_code != 0
