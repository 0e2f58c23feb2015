"""Which node server a client accepts: what this keyring knows of it, whatever a URL says."""

from __future__ import annotations

import pytest
import zmq

from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.keyring import Keyring
from proxyfab.zeromq.guard import Guard

ADDRESS = "node7:5555"


@pytest.fixture
def ring(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    ring = Keyring()
    ring.make("curve", "client")
    return ring


def test_a_url_does_not_say_another_key_than_is_known(ring):
    """A reference from elsewhere would choose who may answer in the server's place."""
    true, false = (ring.make("curve", id).public for id in ("true", "false"))
    assert Guard(ADDRESS, "", "client").options() == {}
    assert Guard(ADDRESS, true, "client").options()[zmq.CURVE_SERVERKEY] == true.encode()
    ring.know(ADDRESS, true)
    for said in ("", true):
        assert Guard(ADDRESS, said, "client").options()[zmq.CURVE_SERVERKEY] == true.encode()
    with pytest.raises(AccessDenied, match=f"keys trust {ADDRESS}"):
        Guard(ADDRESS, false, "client").options()


def test_a_client_without_a_key_is_told(ring):
    """Which one it lacks."""
    ring.know(ADDRESS, ring.make("curve", "true").public)
    with pytest.raises(ConfigurationError, match="no curve key 'other'"):
        Guard(ADDRESS, "", "other").options()
