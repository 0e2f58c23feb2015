"""Real servers of events for tests: a zmq:// broker in a process of its own, to be stopped, killed and started anew.

    with EventServer() as server:
        broker = open_broker(server.url)

Promises: it listens on a free port when the block begins and is gone when it ends; every wait has a deadline.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from proxyfab.testing.nodes import NodeServer

_MAIN = """
import json, os, sys
from proxyfab.server.events.running import run_zmq_broker
url, ready, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
def say(said):
    with os.fdopen(ready, "w") as file:
        file.write(json.dumps(said))
run_zmq_broker(url, ready=say, **options)
"""


class EventServer(NodeServer):
    """One server of events.

    Args:
        bind: Where it listens; port 0 is any.
        environment: What differs from ours.
        options: Of `run_zmq_broker`: memory, key, allow.
    """

    def __init__(
        self, *, bind: str = "tcp://127.0.0.1:0", environment: dict[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(bind=bind, environment=environment)
        self._options = options

    def command(self, ready: int) -> list[str]:
        """How it is started."""
        url = self.bind.replace("tcp://", "zmq://").replace("ipc://", "zmq://")
        return [sys.executable, "-c", _MAIN, url, str(ready), json.dumps(self._options)]
