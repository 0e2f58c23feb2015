"""A real nats-server for tests, beside RedisServer: with JetStream, on a free port, gone with its `with` block.

with NatsServer() as server:
    broker = NatsBroker.from_url(server.url)
"""

from __future__ import annotations

import socket
import subprocess

from proxyfab.brokers.nats.program import Settings, program
from proxyfab.testing.servers import HOST, ServerProcess, make_certificates


class NatsServer(ServerProcess):
    """One server. It keeps what it was given when it is killed and started again.

    Args:
        config: Lines of its configuration, besides those that make it one with JetStream.
        token: What clients have to say.
        tls: Speak TLS only, with a certificate made for it.
    """

    def __init__(self, config: str = "", *, token: str = "", tls: bool = False) -> None:
        super().__init__(program(), "proxyfab-nats-")
        self._config = config
        self._token = token
        self._tls = tls

    @property
    def url(self) -> str:
        """Its URL."""
        return f"nats://{HOST}:{self.port}" + (f"?tls=1&ca={self.directory}/ca.pem" if self._tls else "")

    def _run(self) -> subprocess.Popen[bytes]:
        more = self._config
        if self._tls:
            paths = make_certificates(self.directory)
            more += f'\ntls {{ cert_file: "{paths.cert}", key_file: "{paths.key}" }}\n'
        settings = Settings(HOST, self.port, str(self.directory / "store"), self._token, more=more)
        settings.write(str(self.directory / "configuration"))
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [self.program, "-c", str(self.directory / "configuration")], stdin=subprocess.DEVNULL, stderr=log
            )

    def _greets(self, there: socket.socket) -> bool:
        there.settimeout(1)
        return there.recv(4) == b"INFO"
