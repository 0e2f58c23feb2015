"""What stands in the URL of `erasure://`: numbers, a policy of placement, and for each child what is said of it.

    erasure://?k=4&m=2&child=file:///a;site=argonne,capacity=8TB&child=redis://b/0;site=chicago,afr=0.02

A child is a URL and, behind its last `;`, what is said of it with commas between. Pure: nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from proxyfab.erasure import placement
from proxyfab.erasure.placement import Policy
from proxyfab.errors import ConfigurationError
from proxyfab.routing import assignments, parse_route, route_text
from proxyfab.scattering.members import Standing
from proxyfab.scattering.scattering import SEGMENT_SIZE
from proxyfab.spec import ConnectorSpec, check_name, nbytes

SMALL = 64 * 1024
POLICIES: dict[str, type[Policy]] = {
    "GreedyLeastUsed": placement.GreedyLeastUsed,
    "GreedyMinStorage": placement.GreedyMinStorage,
    "LoadBalance": placement.LoadBalance,
    "ScarcityPrice": placement.ScarcityPrice,
}
"""Policies that a URL can name; others are given to the connector."""
_WIDEST = 4
_NAMED = 40


class Options(NamedTuple):
    """How objects are kept."""

    k: int = 0
    """Shards that are needed; 0 for what fits the children."""
    m: int = -1
    """Shards that may be lost; -1 for 2, or one less than there are children."""
    policy: str = ""
    """Name of a policy of placement that decides k, m and children for each object that is not small."""
    target: float = 0.0
    """For the policy: how probable it must be that an object survives its retention."""
    retention: float = 365.0
    """Days."""
    small: int = SMALL
    """Bytes up to which m + 1 copies are kept."""
    segment: int = SEGMENT_SIZE
    """Bytes of the pieces that larger objects are cut into."""
    quorum: int = 0
    """Shards without which a put fails; 0 for k + max(1, m - 1), and m + 1 at least."""
    patience: float = 30.0
    """Seconds that a child has for an answer."""
    hedge: float = 0.5
    """Seconds after which a get asks another child, too, until what late is has been learned."""
    kernel: str = ""
    """Which one computes shards."""

    def text(self) -> list[tuple[str, str]]:
        """As options of a URL, without those that are as usual."""
        return [
            (name, f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in self._asdict().items()
            if value != self._field_defaults[name]
        ]

    def checked(self, count: int) -> Options:
        """With k and m for so many children.

        Raises:
            ConfigurationError: Something makes no sense.
        """
        m = self.m if self.m >= 0 else min(2, count - 1)
        k = self.k or max(min(_WIDEST, count - m), 1)
        if self.policy and self.policy not in POLICIES:
            raise ConfigurationError(f"erasure:// has no policy {self.policy!r}; it knows {', '.join(POLICIES)}.")
        if k < 1 or k + m > count:
            raise ConfigurationError(f"k={k} and m={m} need {k + m} children, and erasure:// has {count}.")
        if not (self.patience > 0 and self.hedge > 0 and self.segment > 0 and 0 <= self.target < 1):
            raise ConfigurationError("patience=, hedge= and segment= are more than 0, and target= is below 1.")
        return self._replace(k=k, m=m)

    def made_policy(self) -> Policy | None:
        """The policy that is named."""
        return POLICIES[self.policy]() if self.policy else None


def parse(url: str) -> tuple[Options, list[tuple[str, Standing]]]:
    """Options, and the URLs of children with what is said of each."""
    options = ConnectorSpec.parse(url).options
    children = [parse_route(text) for name, text in options if name == "child"]
    given = dict(option for option in options if option[0] != "child")
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        raise ConfigurationError(
            f"erasure:// has no option {unknown[0]!r}; it knows child, {', '.join(Options._fields)}."
        )
    if len(given) + len(children) < len(options):
        raise ConfigurationError(f"{url} gives an option twice; only child= may stand more than once.")
    values = {name: _value(name, text) for name, text in given.items()}
    return Options(**values), [(child, _standing(said)) for child, said in children]


def _value(name: str, text: str) -> Any:
    usual = Options._field_defaults[name]
    try:
        if name in ("small", "segment"):
            return nbytes(text)
        return type(usual)(text)
    except ValueError:
        raise ConfigurationError(f"{name}={text!r} makes no sense in erasure://; write a number.") from None


def _standing(text: str) -> Standing:
    said = assignments(text, Standing._fields, "says nothing of a child", "site=argonne")
    try:
        site = check_name(said["site"]) if "site" in said else ""
        rates = {name: float(said[name]) for name in ("afr", "site_afr") if name in said}
        return Standing(site=site, capacity=float(nbytes(said.get("capacity", 0))), **rates)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} says nothing of a child: {error}") from None


def child_text(url: str, standing: Standing) -> str:
    """The inverse: a child as it stands in a URL."""
    said = [
        f"{name}={value if isinstance(value, str) else f'{value:.17g}'}"
        for name, value in standing._asdict().items()
        if value != Standing._field_defaults[name]
    ]
    return route_text(url, ",".join(said))


def namespaces(name: str | None, urls: Sequence[str]) -> list[str | None]:
    """Names for the children's namespaces: children that are one place get a number behind it."""
    if name is None:
        return [None] * len(urls)
    check_name(name)
    short = name if len(name) <= _NAMED else blake2b(name.encode(), digest_size=16).hexdigest()
    twice = len(set(urls)) < len(urls)
    return [f"{short}.{number}" if twice else name for number in range(len(urls))]
