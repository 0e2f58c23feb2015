"""Place: the two facilities, with a gateway at each and a broker at the second one, from nothing to nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from proxyfab.brokers.nats.program import Settings, port_of, program
from proxyfab.demo.between.plan import RATE, ROUND_TRIP
from proxyfab.demo.crew import Crew, python
from proxyfab.demo.pipeline import DemoError
from proxyfab.demo.role import now
from proxyfab.errors import MissingDependency
from proxyfab.registry import load
from proxyfab.wan.facilities import ADDRESSES, Facilities, missing
from proxyfab.wan.gateways import Gateway, pair

_MEMORY = "512MiB"
"""Of each gateway: of both sites' shared memory no more than a scan takes is touched."""
_SITE = "PROXYFAB_SITE"
_LOOK = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """Two facilities, and who runs there.

    Attributes:
        world: The namespaces, and the link between them.
        crew: All processes.
        sites: The gateways, by their sites.
    """

    world: Facilities
    crew: Crew
    sites: Mapping[str, Gateway]
    root: Path

    def launch(self, name: str, site: str, module: str, arguments: Sequence[str], fds: Sequence[int]) -> None:
        """Start a module as a process of a site, which knows the gateway there and can reach nothing else."""
        gateway = self.sites[site]
        command = self.world.inside(gateway.role, python(module, arguments))
        self.crew.start(name, command, fds, {_SITE: f"{site}={gateway.socket}"})

    def serve(self) -> None:
        """Start gateways and broker."""
        for gateway in self.sites.values():
            words = [*gateway.words, "--ready-file", str(self.root / gateway.site / "ready")]
            command = self.world.inside(gateway.role, _bound(python("proxyfab", words)))
            self.crew.start(f"gateway {gateway.site}", command, environment=gateway.environment)
        settings = Settings(ADDRESSES["B"], 4222, str(self.root / "topics"), ports=str(self.root))
        settings.write(str(self.root / "broker"))
        command = [program(), "-c", str(self.root / "broker")]
        self.crew.start("broker", self.world.inside("siteB", _bound(command)))

    def wait(self, seconds: float) -> None:
        """Return when all that `serve` has started can be connected to.

        Raises:
            DemoError: Somebody ended, or was not ready in time.
        """
        patience = now() + seconds
        while not self._ready():
            failed = self.crew.failed()
            if failed:
                raise DemoError(failed)
            if now() > patience:
                raise DemoError(f"The facilities were not ready after {seconds:g} s ({self.crew.states()}).")
            time.sleep(_LOOK)

    def wire(self, site: str) -> tuple[int, int]:
        """Bytes of packets that have come to a site over the link, and that have left it."""
        pid = self.crew.processes[f"gateway {site}"].pid
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
        (fields,) = (line.split() for line in lines if line.strip().startswith("wan:"))
        return int(fields[1]), int(fields[9])

    def _ready(self) -> bool:
        files = [self.root / site / "ready" for site in self.sites]
        broker = self.crew.processes["broker"].pid
        return all(file.exists() for file in files) and port_of(str(self.root), broker) is not None


def lacking() -> str:
    """Why the third act cannot be here; `""` when it can."""
    why = missing()
    if why:
        return why
    try:
        program()
        load("connectors", "site")
        load("brokers", "nats")
    except MissingDependency as error:
        return str(error).rstrip(".")
    if find_spec("cryptography") is None:
        return "gateways need cryptography: pip install 'proxyfab[seal]'"
    return ""


@contextmanager
def place(world: Facilities) -> Iterator[Place]:
    """Gateways and a broker in facilities that are there; in the end all processes have ended."""
    with TemporaryDirectory(prefix="proxyfab-demo-") as directory:
        crew, root = Crew(), Path(directory)
        found = Place(world, crew, {each.site: each for each in pair(root, direct=True, memory=_MEMORY)}, root)
        try:
            found.serve()
            yield found
        finally:
            crew.dismiss(("broker", *(f"gateway {site}" for site in found.sites)))
            crew.stop()


@contextmanager
def nowhere() -> Iterator[None]:
    """This process is of no site, whatever its user is: both gateways are asked where they are."""
    former = os.environ.pop(_SITE, None)
    try:
        yield
    finally:
        if former is not None:
            os.environ[_SITE] = former


def facilities() -> Facilities:
    """The two facilities of the third act, to be entered."""
    return Facilities(routed=True, delay=ROUND_TRIP / 4, rate=RATE)


def _bound(command: Sequence[str]) -> list[str]:
    """A command whose process ends with this one, however this one ends, where there is a program for that."""
    return [*(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()), *command]
