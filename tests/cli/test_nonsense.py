"""Arguments that make no sense: one line that says what does, and status 2, whatever the command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxyfab.brokers import open_broker
from proxyfab.cli.main import main
from proxyfab.patterns import Producer

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("top shm:// --interval nan", "no number of seconds"),
        ("top shm:// --interval 1e300", "not in the range"),
        ("doctor shm:// --timeout nan", "no number of seconds"),
        ("doctor shm:// --timeout 0", "not in the range"),
        ("serve --orphans -1", "not in the range"),
        ("serve --keep nan", "no number of seconds"),
        ("relay --open --idle -1", "not in the range"),
        ("relay --open --sites -1", "not in the range"),
        ("relay --allow short", "'short' of a site is not the base64 of 32 bytes"),
        ("events sweep --broker memory://nonsense --older -5", "not in the range"),
        ("events tail t --broker memory://nonsense -n 99999999999999999999", "not in the range"),
        ("events tail t --broker memory://nonsense --since nan", "is no moment"),
        ("events tail t --broker memory://nonsense --since -inf", "is no moment"),
        ("topology check latin.toml", "This is no topology: 'utf-8'"),
        ("auth config latin.toml", "'utf-8'"),
        ("keys import verify key latin.toml", "not the base64 of 32 bytes"),
        (f"keys trust node7 '{KEY}'", "write HOST:PORT"),
        (f"keys trust https://node7:5555 '{KEY}'", "write tcp://HOST:PORT"),
        ("demo --frames -1", "frames is -1"),
        ("demo --deadline nan", "deadline is nan"),
    ],
)
def test_nonsense_is_a_line_and_a_status(call: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path))
    Path("latin.toml").write_bytes("[servers.hub]  # f\xfcr alle".encode("latin-1"))
    with open_broker("memory://nonsense") as broker, Producer(broker, "t") as out:
        out.send(1)
        out.flush()
        done = CliRunner().invoke(main, shlex.split(call))
        broker.delete("t")
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), (done.output, done.exception)


@pytest.mark.parametrize("address", ["tcp://node7:5555", "zmq://node7:5555", "node7:5555"])
def test_a_server_is_trusted_by_whichever_of_its_names(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyfab.keyring import Keyring

    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path))
    assert CliRunner().invoke(main, ["keys", "trust", address, KEY]).exit_code == 0
    ring = Keyring()
    assert KEY.encode() in (ring.server("tcp://node7:5555"), ring.server("node7:5555"))  # as clients look for it


def test_a_plan_counts_no_more_places_than_a_code_has_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyfab.cli.erasure.MOST", 4)
    done = CliRunner().invoke(main, ["erasure", "plan", "--sites", "1000000000", "--target", "0.9", "--json"])
    assert done.exit_code == 0, done.output
