"""A topology's servers as configurations of nats-server, one each. Pure.

Promises: the same text for the same topology; no secret in it, but where its environment has it. Links carry nothing of
gathered topics but what a server above asks for: what is published below is stored there and nowhere else at once.
"""

from __future__ import annotations

import json
from typing import Any

from proxyfab.events.access import nats_permissions
from proxyfab.events.people import CALLOUT, People
from proxyfab.events.topology import Server, Topology, host_port

MAX_PAYLOAD = 8 << 20
_RECONNECT = "1s"


class Variable(str):
    """What stands in the environment, not in the text."""

    __slots__ = ()


def render(topology: Topology, name: str) -> str:
    """The configuration of one server."""
    server = topology.servers[name]
    host, port = host_port(server.listen or server.address, f"address of {name}")
    said: dict[str, Any] = {
        "server_name": name,
        "host": host.strip("[]"),
        "port": port,
        "max_payload": MAX_PAYLOAD,
        "jetstream": {"domain": name, "store_dir": server.store},
    }
    if server.tls is not None:
        said["tls"] = _tls(server)
    if topology.principals:
        said |= accounts(topology, name)
    leafs = _leafs(topology, name)
    if leafs:
        said["leafnodes"] = leafs
    return f"# {server.role} {name}: made by `proxyfab topology render`\n" + lines(said)


def accounts(found: Topology | People, server: str = "") -> dict[str, Any]:
    """What a server is told of who may enter: users with their rights, or whom to ask."""
    callout = found.callout
    if callout is None:
        assert isinstance(found, Topology), "people without servers enter through a callout"
        return {"accounts": {account: _account(found, account, server) for account in found.accounts}}
    asked = {"user": callout.user, "password": Variable(callout.password[4:])}
    known = {account: {"jetstream": "enabled"} for account in found.accounts}
    return {
        "accounts": {**known, CALLOUT: {"users": [asked]}},
        "authorization": {
            "timeout": callout.patience,
            "auth_callout": {"issuer": callout.issuer, "account": CALLOUT, "auth_users": [callout.user]},
        },
    }


def lines(said: dict[str, Any]) -> str:
    """As nats-server reads it."""
    return "".join([f"{key}: {_text(value)}\n" for key, value in said.items()])


def _account(topology: Topology, account: str, server: str) -> dict[str, Any]:
    permissions = nats_permissions(topology.grants(account, server), namespace=topology.namespace, reach=True)
    users: list[dict[str, Any]] = []
    for name, allowed in permissions.items():
        each = topology.principals[name]
        users.append({**_login(name, each.password, each.nkey), "permissions": allowed})
    return {"jetstream": "enabled", "users": users}


def _login(name: str, password: str, nkey: str) -> dict[str, Any]:
    if nkey:
        return {"nkey": nkey}
    return {"user": name, "password": Variable(password[4:]) if password.startswith("env:") else password}


def _leafs(topology: Topology, name: str) -> dict[str, Any]:
    server, said = topology.servers[name], dict[str, Any]()
    if server.leaf:
        host, port = host_port(server.leaf, f"leaf of {name}")
        said |= {"host": host.strip("[]"), "port": port, "no_advertise": not server.advertise}
        if server.tls is not None:
            said["tls"] = _tls(server)
        if topology.principals:
            said["authorization"] = {"users": _links(topology, name)}
    if server.upstream:
        said["reconnect"] = _RECONNECT
        said["remotes"] = [_remote(topology, name, account) for account in topology.accounts or [""]]
    return said


def _links(topology: Topology, name: str) -> list[dict[str, Any]]:
    return [
        {"user": f"{below}.{account}", "password": Variable(each.link[4:]), "account": account}
        for below, each in topology.servers.items()
        if each.upstream == name
        for account in topology.accounts
    ]


def _remote(topology: Topology, name: str, account: str) -> dict[str, Any]:
    server = topology.servers[name]
    above = topology.servers[server.upstream]
    kept = [
        f"{topology.namespace}.{topic}.>"
        for topic, each in topology.topics.items()
        if not account or each.account == account
    ]
    said: dict[str, Any] = {"url": f"nats-leaf://{server.via or above.leaf}"}
    if account:
        variable = f"{server.link[4:]}_URL_{account}".upper().replace("-", "_")
        said = {"url": Variable(variable), "account": account}
    if above.tls is not None:
        said["tls"] = {"ca_file": above.tls.ca} if above.tls.ca else {}
    return {**said, "deny_exports": kept, "deny_imports": kept} if kept else said


def _tls(server: Server) -> dict[str, Any]:
    assert server.tls is not None
    known = {"cert_file": server.tls.cert, "key_file": server.tls.key, "ca_file": server.tls.ca}
    return {key: value for key, value in known.items() if value}


def _text(value: Any, indent: str = "") -> str:
    """As nats-server reads it: JSON, but for variables."""
    deeper = f"{indent}  "
    if isinstance(value, Variable):
        return f"${value}"
    if isinstance(value, dict):
        return (
            "{\n" + "".join([f"{deeper}{key}: {_text(each, deeper)}\n" for key, each in value.items()]) + indent + "}"
        )
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "[\n" + "".join([f"{deeper}{_text(each, deeper)}\n" for each in value]) + indent + "]"
    return json.dumps(value)
