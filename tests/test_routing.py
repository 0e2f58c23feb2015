"""Rules as data: their text, any URL inside a URL, and the one decision."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies

from proxyfab.errors import ConfigurationError, ProxyfabError
from proxyfab.groups import grouped
from proxyfab.routing import Costs, Rule, Want, judge, parse_route, route_text, size_class, tagged
from proxyfab.spec import ConnectorSpec

SIZES = strategies.one_of(strategies.integers(0, 2**50), strategies.integers(0, 40).map(lambda power: 2**power))
WORDS = strategies.text("abcXYZ019._-", max_size=8)
ANY = strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=20)


@strategies.composite
def rules(draw: strategies.DrawFn) -> Rule:
    low = draw(SIZES)
    high = draw(strategies.one_of(strategies.none(), SIZES.map(lambda more: low + more + 1)))
    return Rule(low, high, draw(WORDS), draw(strategies.text("abc*?[]!", max_size=5)), draw(WORDS))


@strategies.composite
def urls(draw: strategies.DrawFn, depth: int = 2) -> str:
    """A connector's URL with any characters in path and options, and URLs with URLs inside among them."""
    options = [("o", draw(ANY)) for _ in range(draw(strategies.integers(0, 2)))]
    if depth and draw(strategies.booleans()):
        options.append(("to", route_text(draw(urls(depth - 1)), str(draw(rules())))))
    layers = tuple(draw(strategies.lists(strategies.sampled_from(["lz4", "retry"]), max_size=2)))
    host = draw(strategies.text("abc~1.:@", max_size=5))
    return str(ConnectorSpec("file", host, "/" + draw(ANY), tuple(options), layers))


@given(rule=rules())
def test_a_rule_survives_as_text(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule
    assert ";" not in str(rule)


@given(many=strategies.lists(strategies.tuples(urls(), rules()), max_size=3))
def test_any_url_survives_inside_a_url(many: list[tuple[str, Rule]]) -> None:
    options = tuple(("to", route_text(url, str(rule))) for url, rule in many)
    text = str(ConnectorSpec("routed", options=options))
    parsed = ConnectorSpec.parse(text)

    assert str(parsed) == text
    assert [parse_route(value) for _, value in parsed.options] == [(url, str(rule)) for url, rule in many]


@given(text=ANY)
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        assert Rule.parse(str(Rule.parse(text))) == Rule.parse(text)
    except ProxyfabError:
        pass


def test_a_readable_url_stays_readable() -> None:
    text = "routed://?to=shm://~abc;below=1MiB,tag=hot&to=file:///scratch?ns=x&prefer=cheapest"

    assert str(ConnectorSpec.parse(text)) == text
    assert str(ConnectorSpec("routed", options=(("to", "lz4+file:///a b?x=1&y=2"),))) == (
        "routed://?to=lz4%2Bfile:///a+b?x=1%26y=2"
    )


def test_the_first_that_takes_it_or_the_cheapest() -> None:
    rules = [Rule.make(below="1 KiB"), Rule.make(), Rule.make(tag="hot"), Rule.make(above=5)]
    want = Want(10)

    assert [one.route for one in judge(rules, want, {})] == [0, 1, 3, 2]
    assert [one.route for one in judge(rules, want, {0: 3.0, 1: 1.0, 3: 2.0}, "cheapest")] == [1, 3, 0, 2]
    assert [one.route for one in judge(rules, want, {0: 3.0, 1: 1.0}, "cheapest")] == [3, 1, 0, 2]
    assert [one.route for one in judge(rules, want, {0: 3.0, 1: 1.0}, "first")] == [0, 1, 3, 2]


def test_costs_are_means_that_forget() -> None:
    costs = Costs()
    costs.add(0, "put", 1000, 1.0)
    costs.add(0, "get", 1000, 1.0)
    costs.add(1, "put", 10**6, 1.0)
    for _ in range(50):
        costs.add(0, "put", 900, 0.1)

    assert costs.of(1000) == {0: pytest.approx(1.1, rel=0.01)}
    assert size_class(1_000_000) != size_class(10_000_000)
    assert size_class(0) == size_class(1024)


def test_a_tag_is_of_its_block() -> None:
    with tagged("hot"):
        with tagged("hotter"):
            assert Want.here(1).tag == "hotter"
        assert Want.here(1).tag == "hot"
        assert Want.here(1, "cold").tag == "cold"
    assert Want.here(1).tag == ""
    with pytest.raises(ConfigurationError), tagged("a b"):
        pass


def test_groups_answer_in_order_and_raise() -> None:
    calls: Counter[int] = Counter()

    def ask(number: int, places: list[int]) -> list[str]:
        calls[number] += 1
        if number == 9:
            raise LookupError("nine")
        return [f"{number}.{place}" for place in places]

    assert grouped([1, 2, 1, 3], ask, {2, 3}, "it") == ["1.0", "2.1", "1.2", "3.3"]
    assert calls == {1: 1, 2: 1, 3: 1}
    assert grouped([], ask, {1}, "it") == []
    for far in ({9}, set()):
        with pytest.raises(LookupError):
            grouped([9, 1], ask, far, "it")
