"""Where a Kafka is and how to enter it, out of a URL. Pure: nothing is resolved, opened or read here but a secret.

    kafka://localhost:9092                                              no secret, no TLS
    kafka://b1:9096,b2:9096?tls=1&sasl=SCRAM-SHA-512&user=me&password=env:MINE
    kafka://b1:9098?tls=1&sasl=OAUTHBEARER&tokens=msk                   tokens by a function of this process

Promises: no secret in `str(place)`, in a repr or in an error. A password in a URL is remembered for this process only;
what travels says who enters, not with what, and the receiver looks in PROXYFAB_KAFKA_PASSWORD. Options of librdkafka
itself are let through as `rd.<name>` where they concern speed and patience, none that names a secret or loads code.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from proxyfab.brokers.kafka.tokens import tokens_of
from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.spec import ConnectorSpec, flag, nbytes, read_secret, without_secret

PORT = 9092
VARIABLE = "PROXYFAB_KAFKA_PASSWORD"
USER = "PROXYFAB_KAFKA_USER"
MAX_RECORD = 1_000_000
TIMEOUT = 60.0
VALUES = "_pf"
SASL = ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
PROTOCOLS = ("consumer", "classic")
OPTIONS = (
    "user", "password", "sasl", "tokens", "tls", "ca", "cert", "key", "verify", "admin", "protocol", "values", "max",
    "timeout",
)  # fmt: skip
_FREE = re.compile(
    r"(fetch|queued|queue\.buffering|socket|reconnect|retry|retries|linger|batch|compression|metadata|topic\.metadata|"
    r"broker\.address|client\.(rack|dns)|check\.crcs|acks|max\.in\.flight|session\.timeout|heartbeat\.interval|debug$|log_level$)"
    r"[a-z._]*"
)
_remembered: dict[tuple[str, str], str] = {}


class Place(NamedTuple):
    """A Kafka, however many servers it is."""

    hosts: str
    user: str = ""
    password: str = ""
    """A reference, `env:NAME` or `file:/path`, never the secret."""
    sasl: str = ""
    tokens: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    admin: bool = True
    """Whether topics can be made and deleted on request; without it they come into being when they are used."""
    protocol: str = "consumer"
    values: str = VALUES
    """What the names of the topics begin with that hold values."""
    max: int = MAX_RECORD
    timeout: float = TIMEOUT
    tuning: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Place:
        """The place that a URL names; a password in it is remembered and cut out."""
        url, user, secret = without_secret(url)
        spec = ConnectorSpec.parse(url)
        tuning = tuple(sorted((name[3:], value) for name, value in spec.options if name.startswith("rd.")))
        options = spec._replace(options=tuple(pair for pair in spec.options if not pair[0].startswith("rd.")))
        given = options.take(*OPTIONS)
        if not spec.host or spec.path not in ("", "/"):
            raise ConfigurationError(f"{spec} names no Kafka: it looks like kafka://host:9092 or kafka://h1:9092,h2.")
        place = cls(
            ",".join(host if re.search(r":\d+$", host) else f"{host}:{PORT}" for host in spec.host.split(",")),
            given.get("user", user),
            _reference(given.get("password", "")),
            given.get("sasl", "").upper(),
            given.get("tokens", ""),
            bool(flag(options, "tls")),
            given.get("ca", ""),
            given.get("cert", ""),
            given.get("key", ""),
            flag(options, "verify") is not False,
            flag(options, "admin") is not False,
            given.get("protocol", "consumer"),
            given.get("values", VALUES),
            nbytes(given.get("max", MAX_RECORD)),
            _seconds(given.get("timeout", TIMEOUT)),
            tuning,
        )
        place._check()
        if secret is not None:
            _remembered[place.hosts, place.user] = secret
        return place

    @property
    def url(self) -> str:
        """What opens it elsewhere."""
        usual = Place("")
        texts = {True: "1", False: "0"}
        options = [
            (name, texts[value] if isinstance(value, bool) else f"{value:g}" if name == "timeout" else str(value))
            for name in OPTIONS
            if (value := getattr(self, name)) != getattr(usual, name)
        ]
        tuning = [(f"rd.{name}", value) for name, value in self.tuning]
        return str(ConnectorSpec("kafka", self.hosts, "", (*options, *tuning)))

    @property
    def label(self) -> str:
        """How errors call it."""
        return f"kafka://{self.hosts}"

    def config(self) -> dict[str, object]:
        """What every handle of librdkafka is opened with, secrets included.

        Raises:
            AccessDenied: It is said where the password or the tokens are, and they are not there.
        """
        found: dict[str, object] = {
            "bootstrap.servers": self.hosts,
            "client.id": "proxyfab",
            "log_level": 2,  # what matters comes as an error of a call
            "topic.metadata.refresh.interval.ms": 60_000,
            "socket.keepalive.enable": True,
            **dict(self.tuning),
        }
        secured = {(False, False): "plaintext", (True, False): "ssl"}
        found["security.protocol"] = secured.get(
            (self.tls, bool(self.sasl)), "sasl_ssl" if self.tls else "sasl_plaintext"
        )
        paths = {"ssl.ca.location": self.ca, "ssl.certificate.location": self.cert, "ssl.key.location": self.key}
        found |= {name: os.path.expanduser(path) for name, path in paths.items() if path}
        if self.tls and not self.verify:
            found |= {"enable.ssl.certificate.verification": False, "ssl.endpoint.identification.algorithm": "none"}
        if self.sasl:
            found["sasl.mechanism"] = self.sasl
            found |= self._entry()
        return found

    def _entry(self) -> dict[str, object]:
        if self.sasl == "OAUTHBEARER":
            return {"oauth_cb": tokens_of(self.tokens)}
        secret = self._secret()
        user = self.user or os.environ.get(USER, "")
        if secret is None or not user:
            raise AccessDenied(
                f"{self.label} asks for a user and a password: add ?user=NAME&password=env:NAME, or set {USER} and "
                f"{VARIABLE}."
            )
        return {"sasl.username": user, "sasl.password": secret}

    def _secret(self) -> str | None:
        if self.password:
            return read_secret(self.password, self.label)
        found = _remembered.get((self.hosts, self.user))
        return os.environ.get(VARIABLE) if found is None else found

    def _check(self) -> None:
        if self.sasl not in SASL:
            raise ConfigurationError(f"{self.label} is entered by ?sasl={', '.join(SASL[1:])}, not {self.sasl!r}.")
        if self.protocol not in PROTOCOLS:
            raise ConfigurationError(f"{self.label} has ?protocol=consumer or classic, not {self.protocol!r}.")
        if (self.sasl == "OAUTHBEARER") != bool(self.tokens):
            raise ConfigurationError(f"{self.label}: ?sasl=OAUTHBEARER and ?tokens=<registered name> go together.")
        if not self.tls and (self.ca or self.cert or self.key or not self.verify):
            raise ConfigurationError(f"{self.label} is not encrypted; ca, cert, key and verify need ?tls=1.")
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.values):
            raise ConfigurationError(f"{self.values!r} cannot begin a topic's name.")
        for name, _ in self.tuning:
            if not _FREE.fullmatch(name):
                raise ConfigurationError(
                    f"rd.{name} is not let through: only what concerns librdkafka's speed and patience is."
                )


def _reference(text: str) -> str:
    if text and not re.fullmatch(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)", text):
        raise ConfigurationError("?password= says where the password is: env:NAME or file:/path; never itself.")
    return text


def _seconds(text: str | float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise ConfigurationError(f"timeout={text!r} makes no sense; write seconds.")
    return seconds
