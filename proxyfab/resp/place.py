"""Where a Redis is and how to enter it, out of a URL. Pure: nothing is resolved, opened or read here but a secret.

    redis://host:6379/0            one server; rediss:// with TLS; redis:///run/redis.sock a local socket
    redis://h1,h2,h3?cluster=1     a cluster, found through any of these nodes
    redis://s1:26379,s2?sentinel=mymaster&password=env:REDIS_PASSWORD

Promises: no secret in `str(place)`, in a spec, in a repr or in an error. A password in a URL is remembered for this
process only; what travels says who enters, not with what, and the receiver looks in PROXYFAB_REDIS_PASSWORD.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.spec import ConnectorSpec, nbytes, read_secret, without_secret

PORT = 6379
SENTINEL_PORT = 26379
TIMEOUT = 60.0
LEASE = 60.0
CHUNK = 256 * 2**20
VARIABLE = "PROXYFAB_REDIS_PASSWORD"
OPTIONS = ("ns", "user", "password", "cluster", "sentinel", "timeout", "lease", "chunk", "ca", "cert", "key", "verify")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_remembered: dict[tuple[str, str], str] = {}

Address = tuple[str, int]
"""Host and port; the path of a local socket and 0."""


class Place(NamedTuple):
    """A Redis, however many servers it is."""

    scheme: str
    hosts: tuple[Address, ...]
    database: int = 0
    user: str = ""
    password: str = ""
    """A reference, `env:NAME` or `file:/path`, never the secret."""
    cluster: bool = False
    sentinel: str = ""
    timeout: float = TIMEOUT
    lease: float = LEASE
    chunk: int = CHUNK
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True

    @classmethod
    def parse(cls, url: str) -> tuple[Place, str | None]:
        """The place, and the namespace that the URL names."""
        url, user, secret = without_secret(url)
        spec = ConnectorSpec.parse(url)
        options = spec.take(*OPTIONS)
        place = cls(
            spec.scheme,
            _hosts(spec, SENTINEL_PORT if "sentinel" in options else PORT),
            _database(spec),
            options.get("user", user),
            _reference(options.get("password", "")),
            _flag("cluster", options.get("cluster", "0")),
            options.get("sentinel", ""),
            _seconds("timeout", options.get("timeout", TIMEOUT)),
            _seconds("lease", options.get("lease", LEASE)),
            _chunk(options.get("chunk", CHUNK)),
            options.get("ca", ""),
            options.get("cert", ""),
            options.get("key", ""),
            _flag("verify", options.get("verify", "1")),
        )
        place._check()
        if secret is not None:
            _remembered[place.label, place.user] = secret
        return place, options.get("ns")

    def url(self, namespace: str | None) -> str:
        """What opens the same namespace elsewhere; None for a place without one."""
        usual = Place(self.scheme, self.hosts)
        texts = {"cluster": "1", "verify": "0", "timeout": f"{self.timeout:g}", "lease": f"{self.lease:g}"}
        options = [
            (name, texts.get(name, str(getattr(self, name))))
            for name in OPTIONS[1:]
            if getattr(self, name) != getattr(usual, name)
        ]
        host, path = self._where()
        return str(
            ConnectorSpec(self.scheme, host, path, (*([] if namespace is None else [("ns", namespace)]), *options))
        )

    @property
    def label(self) -> str:
        """How errors call it."""
        host, path = self._where()
        return str(ConnectorSpec(self.scheme, host, path))

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.scheme == "rediss"

    def secret(self) -> str | None:
        """The password; None to enter without one.

        Raises:
            AccessDenied: It is said where the password is, and it is not there.
        """
        if self.password:
            return read_secret(self.password, self.label)
        found = _remembered.get((self.label, self.user))
        return os.environ.get(VARIABLE) if found is None else found

    def _where(self) -> tuple[str, str]:
        if self.hosts[0][1] == 0:
            return "", self.hosts[0][0] + (f"/{self.database}" if self.database else "")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return hosts, f"/{self.database}"

    def _check(self) -> None:
        if self.cluster and self.sentinel:
            raise ConfigurationError(f"{self.label} is either a cluster or watched by sentinels; say one.")
        if len(self.hosts) > 1 and not (self.cluster or self.sentinel):
            raise ConfigurationError(
                f"{self.label} names several hosts; add ?cluster=1 or ?sentinel=<name of the master>."
            )
        if self.cluster and self.database:
            raise ConfigurationError(f"{self.label}: a cluster has database 0 only.")
        if not self.tls and (self.ca or self.cert or self.key or not self.verify):
            raise ConfigurationError(f"{self.label} is not encrypted; ca, cert, key and verify belong to rediss://.")


def _hosts(spec: ConnectorSpec, port: int) -> tuple[Address, ...]:
    if not spec.host:
        path = re.sub(r"/\d+$", "", spec.path)
        if not path:
            raise ConfigurationError(f"{spec.scheme}:// names no host; write redis://localhost:6379/0.")
        return ((path, 0),)
    return tuple(_address(text, port) for text in spec.host.split(","))


def _address(text: str, usual: int) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:@/\s]+))(?::(\d{1,5}))?", text)
    port = int(match[3] or usual) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigurationError(f"{text!r} is no host with a port; write redis://localhost:6379/0.")
    return match[1] or match[2], port


def _database(spec: ConnectorSpec) -> int:
    path = re.fullmatch(r".*?/?(\d*)", spec.path) if not spec.host else re.fullmatch(r"/?(\d*)", spec.path)
    if path is None:
        raise ConfigurationError(f"{spec.path!r} is no database of Redis; write redis://localhost:6379/0.")
    return int(path[1] or 0)


def _reference(text: str) -> str:
    if text and not text.startswith(("env:", "file:")):
        raise ConfigurationError("?password= says where the password is: env:NAME or file:/path, never the secret.")
    return text


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ConfigurationError(f"{name}={text!r} is neither yes nor no; write {name}=1 or {name}=0.")
    return _FLAGS[text.lower()]


def _seconds(name: str, text: str | float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ConfigurationError(f"{name}={text!r} is not a positive number of seconds.")
    return seconds


def _chunk(text: str | int) -> int:
    size = nbytes(text)
    if not 1024 <= size <= 512 * 2**20 - 1024:
        raise ConfigurationError(f"chunk={text!r}: Redis takes values up to 512 MB; use 1 KiB to 511 MiB.")
    return size
