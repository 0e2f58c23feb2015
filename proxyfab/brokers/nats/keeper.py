"""Keeps the server of `nats://auto`: starts it, starts it again when it died, ends it when nobody uses it any more.

A process of its own, and all of it: `python -m proxyfab.brokers.nats.keeper directory store lock program sync`. The
rules are those of `auto`. The kernel kills the server with its keeper; both hold the lock that a next keeper waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from proxyfab.brokers.nats.auto import Files, lock
from proxyfab.brokers.nats.program import Settings, die_with, port_of, write_mine

HOST = "127.0.0.1"
LINGER = 3.0
"""Seconds without a user after which the server ends."""
_PAUSE = 0.1
_START = 30.0
_END = 20.0


class Keeper:
    """The keeper of one directory.

    Args:
        files: Where.
        held: Locks, to be inherited by the server.
        program: The server's path.
        sync: "always", or "".
    """

    def __init__(self, files: Files, held: Sequence[int], program: str, sync: str) -> None:
        self._files = files
        self._held = held
        self._program = program
        self._settings = Settings(HOST, -1, files.store, secrets.token_hex(16), sync, files.directory)
        self._server: subprocess.Popen[bytes] | None = None
        self._empty_since: float | None = None
        self.wanted = True

    def run(self) -> None:
        """Until nobody wants the server any more, or we are told to end."""
        try:
            while self.wanted and not self._is_over():
                if self._server is None or self._server.poll() is not None:
                    self._start()
                time.sleep(_PAUSE)
        finally:
            self._end()

    def _start(self) -> None:
        configuration = f"{self._files.directory}/configuration"
        self._settings.write(configuration)
        self._server = subprocess.Popen(
            [self._program, "-c", configuration],
            stdin=subprocess.DEVNULL,
            pass_fds=self._held,
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - the keeper has one thread
        )
        until = time.monotonic() + _START
        while (port := port_of(self._files.directory, self._server.pid)) is None:
            if self._server.poll() is not None or time.monotonic() > until:
                self._settings = self._settings._replace(port=-1)  # another one may have taken it meanwhile
                self._stop()
                return
            time.sleep(0.005)
        self._settings = self._settings._replace(port=port)
        ready = {"address": f"{HOST}:{port}", "token": self._settings.token, "sync": self._settings.sync}
        write_mine(self._files.ready, json.dumps({**ready, "pid": self._server.pid, "keeper": os.getpid()}))

    def _is_over(self) -> bool:
        """Whether nobody has used the server for a while; once this is true nobody can any more."""
        users = lock(self._files.users)
        now = time.monotonic()
        if users is None:
            self._empty_since = None
            return False
        try:
            if self._empty_since is None:
                self._empty_since = now
            if now - self._empty_since < LINGER:
                return False
            for path in (self._files.ready, self._files.users):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        finally:
            os.close(users)
        return True

    def _end(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._files.ready)
        self._stop()
        for name in ("configuration", "log"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._files.directory}/{name}")

    def _stop(self) -> None:
        server = self._server
        if server is None:
            return
        server.terminate()
        try:
            server.wait(_END)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._files.directory}/nats-server_{server.pid}.ports")


def main() -> None:
    """What the process runs."""
    directory, store, held, program, sync = sys.argv[1:]
    os.set_inheritable(int(held), False)
    files = Files(directory, store)
    claim = lock(files.claim)
    if claim is None:
        sys.exit(
            f"Another machine or container runs a server on {store}; set PROXYFAB_BROKER_DIR to another directory."
        )
    keeper = Keeper(files, (int(held), claim), program, sync)

    def stop(*_: object) -> None:
        keeper.wanted = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper.run()


if __name__ == "__main__":
    main()
