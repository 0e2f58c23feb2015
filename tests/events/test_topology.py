"""Descriptions of servers: what makes sense, what is rendered of it, and where a gathered topic lies."""

from __future__ import annotations

import pytest

from proxyfab.errors import ConfigurationError
from proxyfab.events.topology import Topology, environment, seconds
from proxyfab.events.topology_text import render

SERVERS = """
[servers.hub]
role = "hub"
address = "hub.lab:4222"
leaf = "hub.lab:7422"
store = "/var/lib/hub"

[servers.site]
role = "site"
address = "site.lab:4222"
leaf = "site.lab:7422"
upstream = "hub"
link = "env:SITE_LINK"
store = "/var/lib/site"

[servers.edge]
role = "edge"
address = "127.0.0.1:4222"
upstream = "site"
link = "env:EDGE_LINK"
store = "/var/lib/edge"

[servers.other]
role = "edge"
address = "127.0.0.1:4322"
upstream = "site"
link = "env:OTHER_LINK"
store = "/var/lib/other"
"""
PRINCIPALS = """
[principals.operator]
password = "$2a$11$PWIFAL8RsWyGI3jVZtO9Nu8.6jOxzxfZo7c/W0eLk017hjgUKWrhy"
grants = { "*" = ["admin", "publish", "subscribe"] }

[principals.camera]
password = "env:CAMERA"
servers = ["edge"]
grants = { frames = ["publish"] }
"""
TOPICS = """
[topics.frames]
from = ["edge", "other"]
to = "hub"
retention = "7d"
partitions = 2
"""
ALL = SERVERS + PRINCIPALS + TOPICS


def test_a_topic_lies_on_all_servers_from_below_to_above() -> None:
    held = {each.server: each for each in Topology.parse(ALL).held("frames")}

    assert list(held) == ["edge", "other", "site", "hub"]  # those below are made first
    assert (held["edge"].below, held["edge"].lift) == ((), True)
    assert (held["site"].below, held["site"].known, held["site"].lift) == (("edge", "other"), ("edge", "other"), False)
    assert (held["hub"].below, held["hub"].known, held["hub"].lift) == (("site",), ("edge", "other"), False)
    assert [each.topic.release for each in held.values()] == ["never"] * 3 + ["all_groups_acked"]
    assert {each.topic.retention for each in held.values()} == {7 * 86400.0}


def test_no_secret_is_rendered_and_what_is_needed_is_said() -> None:
    topology = Topology.parse(ALL)
    edge, hub = render(topology, "edge"), render(topology, "hub")

    assert "password: $CAMERA" in edge and "url: $EDGE_LINK_URL_MAIN" in edge
    assert "$CAMERA" not in hub and 'user: "camera"' not in hub
    assert 'user: "site.main"' in hub and "password: $SITE_LINK" in hub
    assert "no_advertise: true" in hub and 'domain: "hub"' in hub
    assert 'deny_exports: ["pf.frames.>"]' in edge
    assert set(environment(topology, "edge")) == {"CAMERA", "EDGE_LINK_URL_MAIN"}
    assert set(environment(topology, "site")) == {"EDGE_LINK", "OTHER_LINK", "SITE_LINK_URL_MAIN"}


def test_how_a_broker_is_opened() -> None:
    topology = Topology.parse(ALL)

    assert topology.url("edge", "camera") == "nats://127.0.0.1:4222?user=camera&inbox=_INBOX.camera&password=env:CAMERA"
    assert topology.url("hub", domain="edge") == "nats://hub.lab:4222?domain=edge"
    assert topology.administrator("main") == "operator"
    with pytest.raises(ConfigurationError, match="nobody who may make topics"):
        topology.administrator("else")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('role = "hub"', 'role = "hub"\nupstream = "site"', "nobody is above a hub"),
        ('role = "hub"', 'role = "moon"', r"role"),
        ('role = "hub"', 'role = "site"\nlink = "env:X"\nupstream = "site"', "site -> hub -> site|hub -> site -> hub"),
        ('upstream = "hub"', "", "has no upstream"),
        ('upstream = "hub"', 'upstream = "sun"', "speaks of a server 'sun'"),
        ('upstream = "hub"', 'upstream = "edge"', "which is an edge"),
        ('leaf = "hub.lab:7422"', "", "no leaf address"),
        ('leaf = "hub.lab:7422"', 'leaf = "hub.lab"', "write host:port"),
        ('leaf = "hub.lab:7422"', 'leaf = "hub.lab:4222"', "at the same"),
        ('leaf = "hub.lab:7422"', 'leaf = "site.lab:7422"', "both listen at"),
        ('address = "hub.lab:4222"', 'address = "hub.lab:99999"', "write host:port"),
        ('store = "/var/lib/hub"', "", "store"),
        ('store = "/var/lib/hub"', 'store = "/x"\nwhat = 1', "what"),
        ("[servers.hub]", '[servers."h b"]', "cannot be called"),
        ('link = "env:SITE_LINK"', "", "needs a password"),
        ('link = "env:SITE_LINK"', 'link = "secret"', "is not env:NAME"),
        ('password = "env:CAMERA"', 'password = "secret"', "neither env:NAME nor a bcrypt hash"),
        ('password = "env:CAMERA"', "", "a password or an nkey"),
        ('password = "env:CAMERA"', 'nkey = "SUSECRET"', "not a user's public key"),
        ('servers = ["edge"]', 'servers = ["mars"]', "speaks of a server 'mars'"),
        ('frames = ["publish"]', 'frames = ["look"]', "actions are"),
        ('to = "hub"', 'to = "other"', "other is not above edge"),
        ('"other"]', '"site"]', "give what site publishes a topic of its own"),
        ('retention = "7d"', 'retention = "soon"', "is no time"),
        ('"other"]', '"x"]', "speaks of a server 'x'"),
        ("partitions = 2", "partitions = 0", "partitions"),
        ("[topics.frames]", "[topics.frames", "no topology"),
        (PRINCIPALS, "", "can be reached from elsewhere"),
        (ALL, "", "servers"),
        (ALL, "[servers]", "no servers"),
        (ALL, 'namespace = "a_b"' + ALL, "namespace"),
    ],
)
def test_what_makes_no_sense(old: str, new: str, said: str) -> None:
    assert old in ALL
    with pytest.raises(ConfigurationError, match=said):
        Topology.parse(ALL.replace(old, new, 1))


def test_times() -> None:
    assert [seconds(each) for each in (None, 2, "90s", "15min", "1.5h", "7d")] == [None, 2, 90, 900, 5400, 604800]
