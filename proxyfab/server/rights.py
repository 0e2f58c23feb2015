"""What another site may do at this one, and whether a question is within that. Pure functions.

    read     get, look at and wait for objects of this site, by their names
    copies   get what this gateway has of other sites' objects
    put      put objects under names of this site, as who sets a future of this site does
    evict    evict objects of this site, and change how long they live
    push     have this gateway fetch objects, so that they are here before they are asked for

Rules:
1. What was not granted is refused before anything is looked up, so that a refusal tells nothing about what is here.
2. A refusal says which right is missing, and how it is granted.
3. `copies` is a right of its own: what this site may read elsewhere is not for this site to pass on without a word.
"""

from __future__ import annotations

from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.osio.namespace import is_name
from proxyfab.server.abroad import Question
from proxyfab.server.options import READ, RIGHTS, Neighbour

_RIGHT_OF = {"exists": READ, "stat": READ, "evict": "evict", "renew": "evict", "wait": READ, "take": "put"}


def needed(question: Question, site: str) -> str:
    """The right that a question to the gateway of `site` takes."""
    if question.verb == "get":
        return READ if question.home.site == site else "copies"
    return "push" if question.verb == "fetch" else _RIGHT_OF[question.what or question.verb]


def check(question: Question, site: str, asker: Neighbour) -> None:
    """Let a question of another site pass, or refuse it.

    Raises:
        AccessDenied: That site has no right to it.
    """
    right, mine = needed(question, site), question.home.site == site
    if right not in asker.may:
        granted = "+".join(each for each in RIGHTS if each in {*asker.may, right})
        raise AccessDenied(
            f"Site {asker.name} has no right to {right!r} at site {site}: its gateway grants that by "
            f"--peer {asker.name}=...,may={granted}."
        )
    if mine and asker.spaces and question.home.namespace not in asker.spaces:
        raise AccessDenied(
            f"Site {asker.name} has no right to the namespace {question.home.namespace[:200]!r} of site {site}, but to "
            f"{', '.join(sorted(asker.spaces))}: its gateway grants it by --peer {asker.name}=...,in=NAMESPACE+..."
        )


def described(asker: Neighbour) -> str:
    """What another site may do here, in words."""
    where = f" in {', '.join(sorted(asker.spaces))} only" if asker.spaces else ""
    return ", ".join(each for each in RIGHTS if each in asker.may) + where


def granted(words: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Rights and namespaces of `may=read+push` and `in=run1+run2`; without a word, to read and nothing else.

    Raises:
        ConfigurationError: They make no sense.
    """
    may, spaces = frozenset({READ}), frozenset[str]()
    for word in words:
        name, _, value = word.partition("=")
        found = frozenset(value.split("+"))
        if name == "may" and found == {"all"}:
            may = frozenset(RIGHTS)
        elif name == "may" and found <= set(RIGHTS):
            may = found
        elif name == "in" and all(map(is_name, found)):
            spaces = found
        else:
            raise ConfigurationError(
                f"{word!r} grants a site nothing: write may={'+'.join(RIGHTS)} (some of these, or all), and "
                "in=NAMESPACE+NAMESPACE for some namespaces only."
            )
    return may, spaces
