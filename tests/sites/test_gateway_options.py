"""What `proxyfab serve --site` and `proxyfab relay` refuse, in words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxyfab.cli.gateway import neighbour
from proxyfab.cli.main import main
from proxyfab.errors import ConfigurationError
from proxyfab.keyring import Keyring
from proxyfab.server.options import Site
from proxyfab.server.sites import Sites
from proxyfab.store import Store

pytest.importorskip("cryptography")


@pytest.fixture(autouse=True)
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    return Keyring()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["serve", "--peer", "alcf=#x"], 2, "name its site by --site"),
        (["serve", "--site", "aps", "--listen", "7000"], 2, "'7000' is no address; write HOST:PORT"),
        (
            ["serve", "--site", "aps", "--peer", "alcf=host:1#x"],
            2,
            "The key of site alcf is not the base64 of 32 bytes",
        ),
        (["serve", "--site", "a b"], 2, "'a b' cannot name a key"),
        (["serve", "--site", "aps"], 1, "proxyfab keys make sign aps"),
        (["serve", "--site", "aps", "--peer", "alcf=host:1"], 1, "with `proxyfab keys import verify alcf FILE`"),
        (["serve", "--site", "aps", "--streams", "33"], 2, "--streams"),
        (["relay"], 2, "--allow KEY, or all with --open"),
        (["relay", "--open", "--listen", "203.0.113.77:1"], 1, "Cannot listen at 203.0.113.77:1"),
    ],
)
def test_wrong_options(words: list[str], status: int, said: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == status, result.output
    assert said in " ".join(result.output.split())


def test_a_site_that_is_its_own_peer(ring: Keyring) -> None:
    public = ring.make("sign", "aps").public
    result = CliRunner().invoke(main, ["serve", "--site", "aps", "--peer", f"aps=#{public}"])
    assert result.exit_code == 2
    assert "Site 'aps' is its own peer" in result.output


@pytest.mark.parametrize(
    ("listen", "said"), [("127.0.0.1:0", r"is dialled at 127\.0\.0\.1:\d+"), ("", "only dials others")]
)
def test_a_gateway_says_of_which_site_it_is_and_where_others_dial(ring: Keyring, listen: str, said: str) -> None:
    for name in ("aps", "alcf"):
        ring.make("sign", name)
    more = ["--peer", "alcf=127.0.0.1:1", *(["--listen", listen] if listen else []), "--memory", "1MiB"]
    command = [sys.executable, "-m", "proxyfab", "serve", "--site", "aps", *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert re.search(f" at zmq://127.0.0.1:\\d+, gateway of site aps, which {said}, pid {process.pid}", line), line


def test_a_peer_is_known_by_the_keyring_or_by_its_key(ring: Keyring) -> None:
    public = ring.make("sign", "alcf").public
    assert neighbour("alcf=[::1]:7000") == neighbour(f"alcf=[::1]:7000#{public}")
    assert neighbour("alcf=[::1]:7000").address == ("::1", 7000)
    assert neighbour(f"alcf=#{public}").address is None


def test_all_other_sites_share_the_memory_of_what_comes(ring: Keyring) -> None:
    for name in ("aps", "alcf", "nersc"):
        ring.make("sign", name)
    sites = Sites(Site("aps", peers=(neighbour("alcf"), neighbour("nersc"))), ring, lambda line, wants: None)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert sites.room.most == half
    block = sites.peering("alcf")._room.allocate("alcf", half // 2)  # no page of it is touched
    assert sites.peering("nersc")._room.left("nersc") <= half // 2
    assert sites.figures()[1]["coming_bytes"] == half // 2
    del block
    assert sites.figures()[1]["coming_bytes"] == 0


def test_urls_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store("site://aps?gateway=127.0.0.1:5555&ns=run&timeout=5") as store:
        assert store.url == "site://aps?gateway=127.0.0.1:5555&ns=run&timeout=5"
        assert store.connector.servers.own().address == "127.0.0.1:5555"  # type: ignore[attr-defined]  # it has
    monkeypatch.setenv("PROXYFAB_SITE", "alcf=127.0.0.1:6666")
    with Store("site://aps?gateway=127.0.0.1:5555&ns=~aaaaaaaaaaaaaaaaaaaaaaaa") as moved:
        assert moved.connector.site == "alcf"  # type: ignore[attr-defined]  # it has
        assert moved.connector.servers.own().address == "127.0.0.1:6666"  # type: ignore[attr-defined]  # as above
        assert "~aaaaaaaaaaaaaaaaaaaaaaaa" not in moved.connector.spec  # that lives with a process of aps
    with Store("site://", name="run") as own:
        assert own.connector.site == "alcf"  # type: ignore[attr-defined]  # as above
        assert own.url == "site://?ns=run"
    with Store("site://alcf?gateway=127.0.0.1:7777&ns=run") as said:
        assert said.connector.servers.own().address == "127.0.0.1:7777"  # type: ignore[attr-defined]  # as above
    monkeypatch.setenv("PROXYFAB_SITE", "alcf")
    with pytest.raises(ConfigurationError, match="write PROXYFAB_SITE=NAME=HOST:PORT"):
        Store("site://")
