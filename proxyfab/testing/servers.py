"""Real servers for tests: found on this machine, started on free ports, ended with their `with` block.

    with RedisServer() as server:
        connector = RedisConnector.from_url(server.url)

Promises: nothing is started twice on a port, nothing lives on after the block, every wait has a deadline; data lies in
a directory that goes, too. A server is stopped, continued, killed and started again as a test wants it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyfab.errors import ProxyfabError
from proxyfab.testing.processes import DEADLINE, halt, until

if TYPE_CHECKING:
    from typing import Self

HOST = "127.0.0.1"
PROGRAMS = ("redis-server", "valkey-server")
DATABASES = 4096
MASTER = "mymaster"
_TRIES = 5
_PORTS = range(10_000, 20_000)
_first = random.SystemRandom().randrange(len(_PORTS))  # or tests that run side by side would all begin with the same
_ports: Iterator[int] = itertools.cycle([*_PORTS[_first:], *_PORTS[:_first]])
_GUARD = 'read line; kill -9 "$0" 2> /dev/null; rm -rf "$1"'
_BASE = {
    "bind": HOST,
    "save": '""',
    "appendonly": "no",
    "daemonize": "no",
    "loglevel": "warning",
    "databases": str(DATABASES),
}


class ServerMissing(ProxyfabError):
    """No server program is installed here; the message says how to get one."""


def redis_program() -> str:
    """The path of a Redis or Valkey server.

    Raises:
        ServerMissing: There is none.
    """
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    names = ", ".join(PROGRAMS)
    raise ServerMissing(f"None of {names} is on the PATH: run tools/get-programs (as root it installs one).")


def free_port() -> int:
    """A port that nobody listens on now, and this process was not given before; it has room for a cluster's own port
    above it.

    It is below those that the system gives to whoever connects (32,768 and above): while its server is away, it becomes
    nobody's own end of a connection, and the server can come back to it.
    """
    return next(port for port in _ports if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True


class ServerProcess(ABC):
    """A server's process on a free port, in a directory that goes with its `with` block; for those who say what to run.

    Args:
        program: Path of what is run.
        prefix: Begins the directory's name.
    """

    def __init__(self, program: str, prefix: str) -> None:
        self.program = program
        self.port = 0
        self._prefix = prefix
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where its configuration, certificates and data lie."""
        assert self._directory is not None, "the server was not started"
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it said."""
        return self.directory / "log"

    @abstractmethod
    def _run(self) -> subprocess.Popen[bytes]:
        """Start the process, on `port`."""

    def _answers(self) -> bool:
        """Whether it can be connected to."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as there:
            return self._greets(there)
        return False

    def _greets(self, there: socket.socket) -> bool:
        """Whether what listens is a server that is ready."""
        return True

    def start(self) -> None:
        """Start it, on the same port and with the same data if it ran before.

        Raises:
            ServerMissing: It does not start; the message has what it said.
        """
        self._directory = self._directory or tempfile.TemporaryDirectory(prefix=self._prefix)
        for _ in range(_TRIES):
            self.port = self.port or free_port()
            self._process = self._run()
            # Ends the server when our end of its input closes: when this process does, however it ends.
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, str(self.pid), self._directory.name], stdin=subprocess.PIPE
            )
            if until(lambda: self._answers() or self.ended) and not self.ended:
                return
            self.kill()
            self.port = 0  # somebody else was faster
        raise ServerMissing(f"{self.program} does not start:\n{self.log.read_text()[-2000:]}")

    @property
    def ended(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL: what it held in memory only is gone."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate(timeout=DEADLINE)
            self._guard = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._process = None

    def stop(self) -> None:
        """SIGSTOP: it answers nobody, and nobody is told."""
        halt(self.pid)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._directory is not None:
            self._directory.cleanup()


class RedisServer(ServerProcess):
    """One Redis server on a free port.

    Args:
        config: Lines of its configuration, besides those that make it a quiet one without persistence.
        tls: Speak TLS only, with a certificate made for it.
        sentinel: Be a sentinel.
    """

    def __init__(
        self, config: Mapping[str, str | Sequence[str]] | None = None, *, tls: bool = False, sentinel: bool = False
    ) -> None:
        super().__init__(redis_program(), "proxyfab-redis-")
        self.config = dict(config or {})
        self.tls = tls
        self.sentinel = sentinel
        self._databases = itertools.count()

    @property
    def url(self) -> str:
        """Its URL, without a database."""
        return f"{'rediss' if self.tls else 'redis'}://{HOST}:{self.port}"

    def database(self) -> str:
        """The URL of a database that nobody was given before."""
        return f"{self.url}/{next(self._databases) % DATABASES}"

    def client(self, **options: Any) -> Any:
        """redis-py's client of it, to be closed."""
        import redis

        if self.tls:
            options = {"ssl": True, "ssl_ca_certs": str(self.directory / "ca.pem"), **options}
        return redis.Redis(host=HOST, port=self.port, socket_timeout=DEADLINE, **options)

    def _run(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.program, str(self._configuration()), *(["--sentinel"] if self.sentinel else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _greets(self, there: socket.socket) -> bool:
        """Not before it works: one that finds its cluster's port taken listens for a moment, and then ends."""
        if self.tls:
            context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
            with context.wrap_socket(there, server_hostname=HOST) as safe:
                return self._tells(safe)
        return self._tells(there)

    def _tells(self, there: socket.socket) -> bool:
        there.sendall(b"INFO server\r\n")
        said = there.recv(1)
        while said and not said.startswith(b"-") and b"process_id:" not in said[:-16]:
            more = there.recv(65536)
            if not more:
                return False
            said += more
        return said.startswith(b"-") or b"process_id:%d\r" % self.pid in said  # else another one has the port

    def _configuration(self) -> Path:
        lines: dict[str, str | Sequence[str]] = {} if self.sentinel else dict(_BASE)
        lines |= {"port": str(self.port), "dir": str(self.directory), "logfile": str(self.log)}
        if self.tls:
            certificates = make_certificates(self.directory)
            lines |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
            lines |= {"tls-cert-file": certificates.cert, "tls-key-file": certificates.key}
            lines |= {"tls-ca-cert-file": certificates.ca}
        path = self.directory / "redis.conf"
        path.write_text("".join(_lines({**lines, **self.config})))
        return path


def _lines(config: Mapping[str, str | Sequence[str]]) -> Iterator[str]:
    for name, values in config.items():
        for value in [values] if isinstance(values, str) else values:
            yield f"{name} {value}\n"


class Certificates(NamedTuple):
    """Paths of PEM files."""

    ca: str
    cert: str
    key: str


def make_certificates(directory: Path) -> Certificates:
    """An authority of its own and a certificate of it for this machine, valid for a day."""
    paths = Certificates(*(str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem")))
    if not os.path.exists(paths.ca):
        from proxyfab.testing.certificates import write_certificates

        write_certificates(paths.ca, paths.cert, paths.key, HOST)
    return paths


@contextlib.contextmanager
def redis_cluster(count: int = 3) -> Iterator[list[RedisServer]]:
    """Servers that share the slots of a cluster, and know one another."""
    with ExitStack() as stack:
        config = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", "databases": "1"}
        servers = [stack.enter_context(RedisServer(config)) for _ in range(count)]
        clients = [stack.enter_context(contextlib.closing(server.client())) for server in servers]
        for number, client in enumerate(clients):
            low, high = number * 16384 // count, (number + 1) * 16384 // count - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", low, high)
            if number:
                client.execute_command("CLUSTER MEET", HOST, servers[0].port)
        whole = until(lambda: all(b"cluster_state:ok" in _cluster_info(client, count) for client in clients))
        assert whole, "the nodes of the cluster did not find one another"
        yield servers


def _cluster_info(client: Any, count: int) -> bytes:
    """What a node says of the cluster, once it knows all the others."""
    text = client.execute_command("CLUSTER INFO")
    raw = text if isinstance(text, bytes) else "\n".join(f"{name}:{value}" for name, value in text.items()).encode()
    return raw if b"cluster_known_nodes:%d" % count in raw else b""


class Watched(NamedTuple):
    """A master, its replica, and a sentinel that watches both."""

    master: RedisServer
    replica: RedisServer
    sentinel: RedisServer

    @property
    def url(self) -> str:
        """The URL of whoever is the master."""
        return f"redis://{HOST}:{self.sentinel.port}/0?sentinel={MASTER}"


@contextlib.contextmanager
def redis_watched() -> Iterator[Watched]:
    """A master with a replica that takes its place when it dies."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer())
        replica = stack.enter_context(
            RedisServer({"replicaof": f"{HOST} {master.port}", "repl-diskless-sync-delay": "0"})
        )
        watching = [
            f"monitor {MASTER} {HOST} {master.port} 1",
            f"down-after-milliseconds {MASTER} 500",
            f"failover-timeout {MASTER} 3000",
        ]
        sentinel = stack.enter_context(RedisServer({"sentinel": watching}, sentinel=True))
        client = stack.enter_context(contextlib.closing(master.client()))
        assert until(lambda: client.info("replication")["connected_slaves"] == 1), "the replica did not come"
        watcher = stack.enter_context(contextlib.closing(sentinel.client()))
        assert until(lambda: len(_replicas(watcher)) == 1), "the sentinel did not find the replica"
        yield Watched(master, replica, sentinel)


def _replicas(watcher: Any) -> list[Any]:
    found = watcher.execute_command("SENTINEL REPLICAS", MASTER)
    return list(found)
