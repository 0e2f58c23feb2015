"""What a place holds: told by itself where it can, counted otherwise. For `proxyfab top` and for metrics."""

from __future__ import annotations

from collections import defaultdict

from proxyfab.abc import Connector, Status, SupportsScan, SupportsStatus
from proxyfab.errors import CapabilityError


def status_of(connector: Connector) -> Status:
    """The connector's own status or, where it has none, what a scan counts: then its peers are the namespaces.

    Raises:
        CapabilityError: It can neither tell its status nor list what it holds.
    """
    if isinstance(connector, SupportsStatus):
        return connector.status()
    if not isinstance(connector, SupportsScan):
        raise CapabilityError(f"{connector.scheme}:// can neither tell its status nor list what it holds.")
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for stat in connector.scan():
        row = sums[stat.namespace, stat.owner]
        row[0] += 1
        row[1] += stat.nbytes
    peers: tuple[dict[str, str | float], ...] = tuple(
        {"name": namespace, "address": owner, "objects": objects, "bytes": nbytes}
        for (namespace, owner), (objects, nbytes) in sorted(sums.items())
    )
    objects = sum(row[0] for row in sums.values())
    return Status(connector.spec, objects, sum(row[1] for row in sums.values()), None, {}, peers)
