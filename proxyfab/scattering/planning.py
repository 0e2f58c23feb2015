"""Planning: into how many shards an object goes, and to which members: decided from what is known, without I/O.

Rules:
1. Small objects are kept as m + 1 copies, larger ones as k + m shards, each on a member of its own.
2. With too few members that answer the code gets narrower, not weaker: k shrinks, m stays, so an object bears as many
   losses as ever and takes more room. At most m members may be away: then it is refused.
3. No more than m shards go to one site, as far as there are sites.
4. With a policy of placement (`erasure.placement`) that decides k, m and members, by room, speed and reliability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.erasure.placement import Policy
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.scattering.members import Members

_MB = 1e6


class Plan(NamedTuple):
    """Where an object goes."""

    k: int
    m: int
    order: tuple[int, ...]
    """Members, those that are meant first, then spare ones."""
    quorum: int
    """Shards that must be stored."""


class Planner:
    """Makes plans.

    Args:
        members: Who may be asked.
        k: Shards that are needed.
        m: Shards that may be lost.
        small: Bytes up to which an object is kept in copies; 0 for none.
        quorum: Shards without which a put fails; k + max(1, m - 1), and m + 1 at least, by default.
        policy: Decides instead of k and m.
        target: For the policy: how probable it must be that an object survives its retention.
        retention: Days.
    """

    def __init__(
        self,
        members: Members,
        k: int,
        m: int,
        *,
        small: int = 0,
        quorum: int | None = None,
        policy: Policy | None = None,
        target: float = 0.0,
        retention: float = 365.0,
    ) -> None:
        if not policy and len(members) < k + m:
            specs = ", ".join(member.spec for member in members.all)
            raise ConfigurationError(f"k={k}, m={m} needs {k + m} different children, not {specs}.")
        if quorum is not None and not k <= quorum <= k + m:
            raise ConfigurationError(f"A quorum of k={k}, m={m} is {k} to {k + m} shards, not {quorum!r}.")
        self.members = members
        self.k = k
        self.m = m
        self.small = small
        self.quorum = quorum
        self.policy = policy
        self.target = target
        self.retention = retention

    def of(self, nbytes: int, id: bytes, without: Sequence[int] = (), *, copies: bool = False) -> Plan:
        """Where an object goes, but for members that have failed it already; as copies where that is said.

        Raises:
            ConnectorError: Too few members are left.
            CapacityError: The policy finds no place.
        """
        copies = copies or (nbytes <= self.small and self.small > 0)
        if self.policy is not None and not copies:
            return self._by_policy(nbytes, without)
        well, resting = self._usable(id, without)
        k = 1 if copies else self.k
        if len(well) < self.k and not without:
            well, resting = [*well, *resting], []
        if len(well) < self.k:
            raise ConnectorError(self._too_few(well))
        k, m = self.narrowed(k, len(well))
        order = self._over_sites(well, k + m, m)
        return Plan(k, m, (*order, *resting), self._quorum(k, m))

    def _copied(self, nbytes: int) -> bool:
        return self.small > 0 and nbytes <= self.small

    def narrowed(self, k: int, count: int) -> tuple[int, int]:
        """The code for so many members: that of rule 2."""
        k = max(min(k, count - self.m), 1)
        return k, min(self.m, count - k)

    def _quorum(self, k: int, m: int) -> int:
        if self.quorum is not None and (k, m) == (self.k, self.m):
            return self.quorum
        return min(max(k + max(1, m - 1), m + 1), k + m)

    def _usable(self, id: bytes, without: Sequence[int]) -> tuple[list[int], list[int]]:
        """Members in the order of an object's own, those that rest apart."""
        count = len(self.members)
        first = id[0] % count
        order = [number % count for number in range(first, first + count) if number % count not in without]
        order = [number for number in order if not self.members[number].leaving]
        resting = [number for number in order if self.members[number].resting]
        return [number for number in order if number not in resting], resting

    def _over_sites(self, order: list[int], n: int, most: int) -> list[int]:
        """The same members, no more than `most` of a site among the first n, while that can be."""
        taken: Counter[str] = Counter()
        first: list[int] = []
        rest: list[int] = []
        for number in order:
            site = self.members[number].standing.site
            if len(first) < n and (not site or taken[site] < max(most, 1)):
                taken[site] += 1
                first.append(number)
            else:
                rest.append(number)
        return first + rest

    def _by_policy(self, nbytes: int, without: Sequence[int]) -> Plan:
        nodes = [member.node(number) for number, member in enumerate(self.members.all) if number not in without]
        assert self.policy is not None  # asked by who has one
        found = self.policy.place(nodes, size=nbytes / _MB, target=self.target, retention=self.retention)
        chosen = [int(name) for name in found.nodes]
        spare = [int(node.name) for node in nodes if node.up and int(node.name) not in chosen]
        return Plan(found.k, found.m, (*chosen, *spare), self._quorum(found.k, found.m))

    def _too_few(self, well: Sequence[int]) -> str:
        count = len(self.members)
        return f"only {len(well)} of {count} children can be used, and {self.k} are needed"
