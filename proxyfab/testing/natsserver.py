"""A real nats-server for tests, beside RedisServer: with JetStream, on a free port, gone with its `with` block.

with NatsServer() as server:
    broker = NatsBroker.from_url(server.url)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from proxyfab.brokers.nats.program import Settings, program
from proxyfab.testing.processes import DEADLINE, until
from proxyfab.testing.servers import HOST, ServerMissing, free_port, make_certificates

if TYPE_CHECKING:
    from typing import Self

_TRIES = 5
_GUARD = 'read line; kill -9 "$0" 2> /dev/null; rm -rf "$1"'


class NatsServer:
    """One server. It keeps what it was given when it is killed and started again.

    Args:
        config: Lines of its configuration, besides those that make it one with JetStream.
        token: What clients have to say.
        tls: Speak TLS only, with a certificate made for it.
    """

    def __init__(self, config: str = "", *, token: str = "", tls: bool = False) -> None:
        self.program = program()
        self.port = 0
        self._config = config
        self._token = token
        self._tls = tls
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where its configuration and data lie."""
        assert self._directory is not None, "the server was not started"
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def url(self) -> str:
        """Its URL."""
        return f"nats://{HOST}:{self.port}" + (f"?tls=1&ca={self.directory}/ca.pem" if self._tls else "")

    def start(self) -> None:
        """Start it, on the same port and with the same data if it ran before.

        Raises:
            ServerMissing: It does not start; the message has what it said.
        """
        self._directory = self._directory or tempfile.TemporaryDirectory(prefix="proxyfab-nats-")
        for _ in range(_TRIES):
            self.port = self.port or free_port()
            more = self._config
            if self._tls:
                paths = make_certificates(self.directory)
                more += f'\ntls {{ cert_file: "{paths.cert}", key_file: "{paths.key}" }}\n'
            settings = Settings(HOST, self.port, str(self.directory / "store"), self._token, more=more)
            settings.write(str(self.directory / "configuration"))
            with open(self.directory / "log", "ab") as log:
                self._process = subprocess.Popen(
                    [self.program, "-c", str(self.directory / "configuration")], stdin=subprocess.DEVNULL, stderr=log
                )
            # Ends the server when our end of its input closes: when this process does, however it ends.
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, str(self.pid), self._directory.name], stdin=subprocess.PIPE
            )
            if until(lambda: self._answers() or self.ended) and not self.ended:
                return
            self.kill()
            self.port = 0  # somebody else was faster
        raise ServerMissing(f"{self.program} does not start:\n{(self.directory / 'log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as there:
            there.settimeout(1)
            return there.recv(4) == b"INFO"
        return False

    @property
    def ended(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL; what it had confirmed is there when it is started again."""
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
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        assert until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T"), "the server was not stopped"

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
