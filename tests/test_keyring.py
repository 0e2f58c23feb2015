"""The keyring: secrets that stay secret, files that only their owner reads, ids that are no paths."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from base64 import b64encode
from functools import partial

import pytest

from proxyfab.errors import AccessDenied, ConfigurationError, KeyExists, ProxyfabError, SealError
from proxyfab.keyring import Keyring, Secret
from proxyfab.testing import in_fork
from proxyfab.testing.processes import at_once


@pytest.fixture
def ring(tmp_path):
    return Keyring(tmp_path / "config" / "keys")


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_files_are_for_their_owner_only_whatever_the_umask(ring, umask):
    """The mode is the call's that makes the file, so that nobody reads it in between."""
    before = os.umask(umask)
    try:
        if umask != 0o777:
            ring.make("symmetric", "early")  # makes the directory, too
        else:
            ring.directory.mkdir(mode=0o700, parents=True)
            for part in (ring.directory.parent, ring.directory):
                os.chmod(part, 0o700)
        for kind in ("symmetric", "sign", "curve"):
            assert mode(ring.make(kind, "lab-2026").where) == 0o600
    finally:
        os.umask(before)
    assert mode(ring.directory) == 0o700


def test_what_was_made_is_read(ring):
    """Each kind comes back, with the public half that belongs to it."""
    for kind in ("symmetric", "sign", "curve"):
        ring.make(kind, "a.b-c_1")
    assert len(ring.symmetric("a.b-c_1")) == len(ring.signing("a.b-c_1")) == len(ring.verifying("a.b-c_1")) == 32
    public, secret = ring.curve("a.b-c_1")
    import zmq

    assert zmq.curve_public(bytes(secret)) == public
    assert {(held.kind, held.id) for held in ring.held()} == {
        (kind, "a.b-c_1") for kind in ("symmetric", "sign", "curve")
    }
    assert ring.has("sign", "a.b-c_1")
    assert not ring.has("verify", "a.b-c_1")


def test_a_public_key_alone_verifies(ring, tmp_path):
    """Who verifies needs no secret."""
    shown = ring.make("sign", "beamline").public
    other = Keyring(tmp_path / "other")
    other.add("verify", "beamline", shown)
    assert other.verifying("beamline") == ring.verifying("beamline")
    with pytest.raises(SealError, match="no sign key"):
        other.signing("beamline")


def test_a_key_never_changes(ring):
    """A new key gets a new id; what lies there stays."""
    ring.make("symmetric", "one")
    before = ring.symmetric("one")
    with pytest.raises(KeyExists):
        ring.make("symmetric", "one")
    assert bytes(ring.symmetric("one")) == bytes(before)
    assert ring.remove("symmetric", "one")
    assert not ring.remove("symmetric", "one")
    with pytest.raises(SealError, match="keys make"):
        ring.symmetric("one")


def test_what_others_could_read_or_write_is_refused(ring):
    """Secrets that others read, lists and directories that others write."""
    path = ring.make("symmetric", "one").where
    os.chmod(path, 0o640)
    with pytest.raises(AccessDenied, match="chmod go= "):
        ring.symmetric("one")
    os.chmod(path, 0o600)
    os.chmod(ring.directory, 0o770)
    with pytest.raises(AccessDenied, match="chmod go-w"):
        ring.symmetric("one")
    with pytest.raises(AccessDenied, match="chmod go-w"):
        ring.make("symmetric", "two")


def test_a_file_under_another_keys_name_is_refused(ring):
    """Who may rename files could otherwise put one key in the place of another."""
    ring.make("symmetric", "one")
    os.rename(ring.directory / "one.symmetric", ring.directory / "two.symmetric")
    with pytest.raises(AccessDenied, match="another key"):
        ring.symmetric("two")


def test_a_pipe_or_a_directory_is_no_key(ring):
    """And nobody waits for one."""
    ring.make("symmetric", "one")
    os.mkfifo(ring.directory / "two.symmetric", 0o600)
    (ring.directory / "three.symmetric").mkdir(0o700)
    for id in ("two", "three"):
        with pytest.raises(AccessDenied, match="not a file"):
            ring.symmetric(id)


@pytest.mark.parametrize("id", ["", "../x", "/etc/passwd", "a/b", ".hidden", "a\0b", "ключ", "x" * 65, "a b"])
def test_an_id_is_no_path(ring, id):
    """Checked before it becomes a file's or a variable's name."""
    for call in (ring.symmetric, ring.signing, ring.verifying, ring.curve, ring.peers):
        with pytest.raises(ConfigurationError):
            call(id)
    with pytest.raises(ConfigurationError):
        ring.make("symmetric", id)


def test_containers_have_keys_in_their_environment(ring, monkeypatch):
    """Base64 under a name made from the id; it comes before a file."""
    ring.make("symmetric", "lab-2026")
    monkeypatch.setenv("PROXYFAB_KEY_LAB_2026", b64encode(b"k" * 32).decode())
    assert ring.symmetric("lab-2026") == b"k" * 32
    monkeypatch.setenv("PROXYFAB_KEY_LAB_2026", "c2hvcnQ=")
    with pytest.raises(ConfigurationError, match="32 bytes") as caught:
        ring.symmetric("lab-2026")
    assert "c2hvcnQ" not in str(caught.value)


def test_a_secret_prints_as_stars_and_stays_here(ring):
    """In every form that ends in a log, and on every way out of the process."""
    secret = Secret(b"canary-canary-canary-canary-1234")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>5}", repr([secret]), repr({"a": secret})):
        assert "canary" not in text
        assert "***" in text
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(ProxyfabError, match="does not leave"):
            pickle.dumps(secret, protocol)
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    ring.make("symmetric", "one")
    assert type(ring.symmetric("one")) is Secret


def _note_twenty(directory: str, first: int) -> bool:
    ring = Keyring(directory)
    public = ring.curve("node")[0].decode()
    for number in range(first, first + 20):
        ring.know(f"tcp://node{number}:5555", public)
        ring.allow("node", f"{public[:38]}{number}", f"client-{number}")
    return True


def test_lists_forget_nothing_that_others_note_meanwhile(ring):
    """Threads, and processes."""
    ring.make("curve", "node")
    note = partial(_note_twenty, str(ring.directory))
    assert at_once([partial(note, 10), partial(note, 30), lambda: in_fork(lambda: note(50))]) == [True] * 3
    assert all(ring.server(f"tcp://node{number}:5555") for number in range(10, 70))
    assert len(ring.peers("node")) == 60


def test_lists_of_peers_and_servers(ring):
    """Public keys with names; the last word on a key or an address counts."""
    key, other = ring.make("curve", "node").public, ring.make("curve", "client").public
    assert ring.peers("node") == {}
    ring.allow("node", other, "ana")
    ring.allow("node", other.encode(), "Zoë")
    assert ring.peers("node") == {other.encode(): "Zoë"}
    ring.allow("node", other.encode(), "ana-2")
    ring.allow("node", key)
    assert ring.peers("node") == {other.encode(): "ana-2", key.encode(): "-"}
    assert ring.server("tcp://node7:5555") is None
    ring.know("tcp://node7:5555", key)
    assert ring.server("tcp://node7:5555") == key.encode()
    assert mode(ring.directory / "known_servers") == 0o600
    with pytest.raises(ConfigurationError):
        ring.allow("node", "no key")
    with pytest.raises(ConfigurationError):
        ring.know("tcp://a b", key)
