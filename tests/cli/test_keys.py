"""`proxyfab keys`, and what `inspect` says of sealed objects."""

from __future__ import annotations

import json
import stat

import pytest
from click.testing import CliRunner

from proxyfab import Store
from proxyfab.cli import main
from proxyfab.keyring import Keyring


@pytest.fixture(autouse=True)
def ring(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    return Keyring()


def run(*arguments: str, text: str = ""):
    return CliRunner().invoke(main, ["keys", *arguments], input=text)


@pytest.mark.parametrize("kind", ["symmetric", "sign", "curve"])
def test_make_shows_what_is_public(ring, kind):
    """And nothing else, in a table and as JSON, then and later."""
    made = run("make", kind, "lab-2026")
    assert made.exit_code == 0, made.output
    path = ring.directory / f"lab-2026.{kind}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = next(line for line in path.read_text().splitlines() if line.startswith("secret")).split()[1]
    outputs = [made.output, *(run(*words).output for words in (["list"], ["list", "--json"], ["show", "lab-2026"]))]
    assert all("lab-2026" in output and secret not in output for output in outputs)
    assert json.loads(run("show", "lab-2026", "--json").output)[0]["kind"] == kind
    again = run("make", kind, "lab-2026")
    assert again.exit_code == 1
    assert "new id" in again.output


def test_exchange(ring, tmp_path):
    """A public key travels as text; a key file moves whole."""
    public = json.loads(run("make", "sign", "beamline", "--json").output)[0]["public"]
    moved = (ring.directory / "beamline.sign").read_text()
    assert run("import", "verify", "theirs", "-", text=public).exit_code == 0
    assert ring.verifying("theirs") == ring.verifying("beamline")
    assert run("remove", "sign", "beamline", "--yes").exit_code == 0
    assert run("import", "sign", "beamline", "-", text=moved).exit_code == 0
    assert ring.verifying("theirs") == ring.verifying("beamline")
    for wrong in ("short", moved):
        failed = run("import", "symmetric", "other", "-", text=wrong)
        assert failed.exit_code == 2
        assert "short" not in failed.output


def test_who_may_come_in_and_who_is_who(ring):
    """Public keys of clients, and of servers."""
    public = json.loads(run("make", "curve", "client", "--json").output)[0]["public"]
    assert run("allow", "node7", public, "--name", "ana").exit_code == 0
    assert ring.peers("node7") == {public.encode(): "ana"}
    assert run("trust", "node7:5555", public).exit_code == 0
    assert ring.server("node7:5555") == public.encode()
    assert run("allow", "node7", "nonsense").exit_code == 2


@pytest.mark.parametrize("first", ["-q", "#q", "-h", "--", "-xh"])
def test_a_key_may_begin_with_anything(ring, first):
    key = (first + ":rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7")[:40]
    assert run("make", "curve", "site").exit_code == 0
    for words in (["allow", "site", key, "--name", "ada"], ["trust", "tcp://node7:5555", key]):
        assert run(*words).exit_code == 0, words
    assert ring.peers("site") == {key.encode(): "ada"}
    assert ring.server("tcp://node7:5555") == key.encode()


def test_wrong_words():
    """Status 2, and what is there."""
    for words in (
        ["show", "none"],
        ["remove", "sign", "none", "--yes"],
        ["make", "symmetric", "../x"],
        ["make", "x", "y"],
    ):
        assert run(*words).exit_code == 2


def test_inspect_of_a_sealed_object(ring, tmp_path):
    """Without the key it says how it is sealed; with it, what it is; damaged, that it does not verify."""
    ring.make("symmetric", "lab")
    place = f"file://{tmp_path}/place?ns=run"
    with Store(place, seal="encrypt:lab", inline_below=0) as store:
        key = str(store.put({"a": 1}))
        blind = CliRunner().invoke(main, ["inspect", key, place, "--json"])
        assert blind.exit_code == 0, blind.output
        found = json.loads(blind.output)
        assert (found["key id"], found["intact"]) == ("lab", None)
        assert "type" not in found
        seeing = json.loads(CliRunner().invoke(main, ["inspect", key, store.url, "--json"]).output)
        assert (seeing["type"], seeing["intact"]) == ("builtins:dict", True)
        ring.remove("symmetric", "lab")
        keyless = CliRunner().invoke(main, ["inspect", key, store.url])
        assert keyless.exit_code == 1
        assert "no symmetric key 'lab'" in keyless.output


@pytest.mark.parametrize("place", ["~nobody-of-this-name/keys", "{file}/keys"])
def test_where_no_keys_can_lie_is_said_with_the_way_out(tmp_path, monkeypatch, place):
    """A user without a home, as in many containers, and a directory that cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PROXYFAB_KEYS", place.format(file=tmp_path / "file"))
    made = run("make", "symmetric", "lab-2026")
    assert made.exit_code in (1, 2)
    assert "PROXYFAB_KEYS" in made.output
