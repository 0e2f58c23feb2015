"""Where a NATS is and how to enter it, out of a URL. Pure: nothing is resolved, opened or read here but a secret.

    nats://host:4222                    one server; with ?tls=1 encrypted
    nats://h1,h2:4223?replicas=3        servers of a cluster, and how many keep each topic
    nats://auto                         this machine's own, started by its first user

Promises: no secret in `url()`, in a repr or in an error. A password or token in a URL is remembered for this process
only; what travels says who enters, not with what, and the receiver looks in PROXYFAB_NATS_PASSWORD, PROXYFAB_NATS_TOKEN
and PROXYFAB_NATS_CREDS.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError, MissingDependency
from proxyfab.spec import ConnectorSpec, read_secret, without_secret

PORT = 4222
AUTO = "auto"
SYNCS = ("", "always")
STORAGES = ("file", "memory")
_OPTIONS = (
    "ns",
    "user",
    "password",
    "token",
    "creds",
    "tls",
    "ca",
    "cert",
    "key",
    "verify",
    "replicas",
    "storage",
    "domain",
    "inbox",
    "sync",
)
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_remembered: dict[tuple[str, ...], str] = {}


class Place(NamedTuple):
    """A NATS, however many servers it is.

    Attributes:
        hosts: `host:port` each; AUTO alone for this machine's own.
        ns: What all its subjects and streams begin with.
        user: Who enters.
        password: A reference, `env:NAME` or `file:/path`, never the secret; `token` likewise.
        creds: Path of a credentials file (JWT and nkey).
        tls: Whether connections are encrypted; ca, cert and key are paths.
        replicas: Servers that keep each topic.
        storage: `file` or `memory`.
        domain: Of JetStream, where it is not the server's own.
        inbox: What the subjects of answers begin with.
        sync: "always" for a server started here that brings each record to the disk before it confirms it.
    """

    hosts: tuple[str, ...]
    ns: str = "pf"
    user: str = ""
    password: str = ""
    token: str = ""
    creds: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    replicas: int = 1
    storage: str = "file"
    domain: str = ""
    inbox: str = "_INBOX"
    sync: str = ""

    @classmethod
    def parse(cls, url: str) -> Place:
        """The place that a URL names; raises ConfigurationError."""
        url, user, secret = without_secret(url)
        if secret is None and user:  # nats://token@host
            user, secret = "", user
        spec = ConnectorSpec.parse(url)
        options = spec.take(*_OPTIONS)
        if spec.path.strip("/"):
            raise ConfigurationError(f"{url} has a path; a NATS server is named as in nats://host:4222?ns=lab.")
        options.setdefault("user", user)
        for name in ("tls", "verify"):
            if name in options and options[name].lower() not in _FLAGS:
                raise ConfigurationError(f"{name}={options[name]!r} is neither yes nor no; write {name}=1 or {name}=0.")
        known: dict[str, Any] = {name: options[name] for name in _OPTIONS if options.get(name)}
        known |= {name: _FLAGS[options[name].lower()] for name in ("tls", "verify") if name in options}
        if "replicas" in known:
            known["replicas"] = _count(known["replicas"])
        place = cls(_hosts(spec.host), **known)
        place._check()
        if secret is not None:
            _remembered[(*place.hosts, place.user)] = secret
        return place

    def url(self) -> str:
        """What opens the same place elsewhere."""
        usual = Place(self.hosts)
        options = []
        for name in _OPTIONS:
            value = getattr(self, name)
            if value != getattr(usual, name):
                options.append((name, {True: "1", False: "0"}[value] if isinstance(value, bool) else str(value)))
        return str(ConnectorSpec("nats", ",".join(self.hosts), "", tuple(options)))

    @property
    def label(self) -> str:
        """How errors call it."""
        return f"nats://{','.join(self.hosts)}"

    @property
    def auto(self) -> bool:
        """Whether it is this machine's own."""
        return self.hosts == (AUTO,)

    def login(self) -> dict[str, Any]:
        """What nats-py is told of who enters, and of TLS.

        Raises:
            AccessDenied: It is said where a secret is, and it is not there.
        """
        said: dict[str, Any] = {"tls": self._context()} if self.tls else {}
        creds = self.creds or os.environ.get("PROXYFAB_NATS_CREDS", "")
        if creds:
            _need_nkeys()
            return {**said, "user_credentials": os.path.expanduser(creds)}
        found = _remembered.get((*self.hosts, self.user))
        if self.user:
            password = read_secret(self.password, self.label) or found or os.environ.get("PROXYFAB_NATS_PASSWORD", "")
            return {**said, "user": self.user, "password": password}
        token = read_secret(self.token, self.label) or found or os.environ.get("PROXYFAB_NATS_TOKEN", "")
        return {**said, "token": token} if token else said

    def _context(self) -> Any:
        import ssl

        context = ssl.create_default_context(cafile=self.ca or None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context

    def _check(self) -> None:
        for name in ("password", "token"):
            text = getattr(self, name)
            if text and not text.startswith(("env:", "file:")):
                raise ConfigurationError(f"?{name}= says where it is: env:NAME or file:/path, never the secret.")
        if not re.fullmatch(r"[A-Za-z0-9-]{1,32}", self.ns):
            raise ConfigurationError(f"ns={self.ns!r} is not 1 to 32 letters, digits and '-'.")
        if self.storage not in STORAGES or self.sync not in SYNCS:
            raise ConfigurationError(f"{self.label}: storage is file or memory, and sync is always, or not said.")
        if self.sync and not self.auto:
            raise ConfigurationError(
                f"{self.label}: only a server that is started here is told ?sync=always; write sync_interval: always "
                "into the jetstream block of that server's configuration, or start it with `proxyfab broker`."
            )
        if not self.tls and (self.ca or self.cert or self.key or not self.verify):
            raise ConfigurationError(f"{self.label} is not encrypted; ca, cert, key and verify belong to ?tls=1.")
        if not all(re.fullmatch(r"[A-Za-z0-9_.-]+", text) for text in (self.inbox, self.domain or "-")):
            raise ConfigurationError(f"{self.label}: inbox and domain are words of letters, digits, '_' and '-'.")


def _need_nkeys() -> None:
    try:
        import nkeys  # noqa: F401 - nats-py asks for it too late to say what to do
    except ModuleNotFoundError as error:
        raise MissingDependency("A credentials file of NATS needs nkeys: pip install nkeys") from error


def _hosts(text: str) -> tuple[str, ...]:
    if text == AUTO:
        return (AUTO,)
    return tuple(_address(each) for each in text.split(","))


def _address(text: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/\s]+)(?::(\d{1,5}))?", text)
    port = int(match[2] or PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigurationError(f"{text!r} is no host with a port; write nats://localhost:4222, or nats://auto.")
    return f"{match[1]}:{port}"


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-5]", text):
        raise ConfigurationError(f"replicas={text!r} is not 1 to 5.")
    return int(text)
