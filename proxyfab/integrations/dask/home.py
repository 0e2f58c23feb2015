"""Where large arguments lie: in a store that belongs to Dask's scheduler, and what clients and scheduler say of it.

Without a URL of the user's the store is shared memory that the scheduler's process owns: it outlives clients, and ends
with the scheduler, however that ends. A client that does not see the same shared memory uses plain Dask.

Words, all in JSON-like types:

| name | kind | from client to scheduler | answer |
|---|---|---|---|
| `proxyfab_hello` | handler | `client`, `version`, `store`, `results` | `url`, `sight`, `version`, `missing` |
| `proxyfab_gather` | handler | `keys`: what a client waits for | of `gather`, and `holders` of large ones |
| `proxyfab_read` | handler | `url`, `key` (text) | the stored bytes as one bytes-like, or None |
| `proxyfab_met` | handler, for workers | `worker`: its address; `version` of proxyfab there, `""` for none | - |
| `proxyfab-claim` | stream | `url`, `keys` (texts): about to be put, or used again; each is kept for this client | - |
| `proxyfab-release` | stream | `url`, `keys`: this client names them in no graph to come; `over`: nor any other | - |
| `proxyfab-stored` | stream, of workers | `task`, `url`, `key`, `nbytes`: a task's result was put | - |

From scheduler to client: `proxyfab-plain`, stream, `why`, `away`: a worker has come that has no
proxyfab, or another version, and stays; or was sent `away`.

Claims are counted: each ends with one release. Where no store can be had the answer to hello has an `error` and no
`url`.

The ids of all keys under which a client has something put begin with its mark (`mark_of`), so that what a killed client
has put and not claimed yet is known as its own, and that of one that is busy is left alone.

Promises: an object lives for as long as a client claims it or a task of the scheduler names it, and no longer. Claims
come before the bytes and before the graph that names them, on the same stream, and end with their client.
"""

from __future__ import annotations

import functools
from hashlib import blake2b
from typing import Any, NamedTuple

HELLO = "proxyfab_hello"
GATHER = "proxyfab_gather"
READ = "proxyfab_read"
CLAIM = "proxyfab-claim"
RELEASE = "proxyfab-release"
STORED = "proxyfab-stored"
MET = "proxyfab_met"
PLAIN = "proxyfab-plain"
MARK = 12
"""Hexadecimal digits of a mark, which leave 80 bits of a key to chance."""


class Home(NamedTuple):
    """What the scheduler says to a client.

    Attributes:
        url: Of the store.
        sight: Which shared memory the scheduler sees (`osio.machine.sight_of` of its root).
        version: Of proxyfab at the scheduler.
        missing: Addresses of workers that have no proxyfab, or another version.
        error: Why there is no store, and so no `url`.
    """

    url: str
    sight: str
    version: str
    missing: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def told(cls, answer: dict[str, Any]) -> Home:
        """From the handler's answer."""
        return cls(
            answer["url"], answer["sight"], answer["version"], tuple(answer.get("missing", ())), answer.get("error", "")
        )

    def words(self) -> dict[str, Any]:
        """As the handler answers."""
        return self._asdict() | {"missing": list(self.missing)}


def mark_of(client: str) -> str:
    """How the ids of a client's keys begin."""
    return blake2b(client.encode(), digest_size=MARK // 2).hexdigest()


@functools.cache
def version() -> str:
    """Of proxyfab here. Two that differ do not know whether they understand one another."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("proxyfab")
    except PackageNotFoundError:
        return "?"


def sight() -> str:
    """Which shared memory this process sees; equal for two that can use each other's objects."""
    from proxyfab.osio.machine import sight_of
    from proxyfab.osio.shared import default_root

    return sight_of(default_root())
