"""Policies: the figures that were published, what their definitions say worked out set by set, sites, and refusals."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations
from math import exp

import pytest

from proxyfab.erasure.placement import (
    Coder,
    Daos,
    GreedyLeastUsed,
    GreedyMinStorage,
    LoadBalance,
    Node,
    Placement,
    Policy,
    Replicate,
    SaturationControlled,
    ScarcityPrice,
    Static,
    Times,
    UtilizationFactor,
    loss_of,
)
from proxyfab.errors import CapacityError, ConfigurationError

# TB, MB/s written, MB/s read, failures a year in percent: ten nodes of D-Rex's evaluation.
MOST_USED = [
    (14, 281, 406, 1.35),
    (16, 209, 220, 0.80),
    (14, 208, 202, 0.97),
    (12, 197, 204, 1.18),
    (12, 193, 204, 1.80),
    (12, 190, 189, 0.64),
    (16, 168, 170, 0.31),
    (8, 164, 170, 1.84),
    (4, 112, 133, 2.60),
    (12, 110, 112, 0.90),
]
SLOW = Times({100.0: Coder((1000.0, 100.0, -50.0), (3500.0, 0.0, 420.0))})
"""About the coder that the simulator's authors measured: 43 MB/s to encode, 17 MB/s to decode."""
ALL, ADAPTIVE = "0123456789", [GreedyMinStorage, GreedyLeastUsed, LoadBalance, ScarcityPrice, SaturationControlled]


def most_used() -> list[Node]:
    return [
        Node(
            str(number),
            capacity=capacity * 1e6,
            write_bandwidth=write,
            read_bandwidth=read,
            annual_failure_rate=rate / 100,
        )
        for number, (capacity, write, read, rate) in enumerate(MOST_USED)
    ]


def some_nodes(seed: int, count: int = 6) -> list[Node]:
    draw = random.Random(seed)
    return [
        Node(
            f"n{number}",
            capacity=draw.choice([100, 200, 400]),
            used=draw.uniform(0, 90),
            write_bandwidth=draw.choice([100, 150, 150, 300]),
            read_bandwidth=draw.choice([100, 200]),
            annual_failure_rate=draw.choice([0.001, 0.01, 0.05]),
        )
        for number in range(count)
    ]


def placed(policy: Policy, nodes: Sequence[Node], **wanted: float) -> Placement | None:
    try:
        return policy.place(nodes, **wanted)  # type: ignore[arg-type]  # by keyword
    except CapacityError:
        return None


@pytest.mark.parametrize(
    ("policy", "target", "n", "k", "nodes"),
    [
        *[(GreedyMinStorage, target, 10, 9, ALL) for target in (0.9, 0.99)],
        (GreedyMinStorage, 0.999, 10, 8, ALL),
        (GreedyMinStorage, 0.99999, 10, 7, ALL),
        *[(policy, t, 3, 2, "016") for policy in (GreedyLeastUsed, LoadBalance) for t in (0.9, 0.99, 0.999)],
        *[(policy, 0.99999, 4, 2, "0126") for policy in (GreedyLeastUsed, LoadBalance)],
        *[(lambda **how: Static(3, 2, **how), target, 5, 3, "01234") for target in (0.9, 0.99)],
        (lambda **how: Static(3, 2, **how), 0.99999, 5, 3, "01236"),
        *[(lambda **how: Static(4, 2, **how), target, 6, 4, "012345") for target in (0.9, 0.99)],
        (lambda **how: Static(4, 2, **how), 0.99999, 6, 4, "123569"),
        *[(lambda **how: Static(6, 3, **how), target, 9, 6, "012345678") for target in (0.9, 0.99, 0.99999)],
        *[(Daos, target, 9, 8, "012345678") for target in (0.9, 0.99)],
        (Daos, 0.999, 10, 8, ALL),
        *[(lambda **how: SaturationControlled(SLOW, **how), target, 4, 3, "0126") for target in (0.9, 0.99)],
        (lambda **how: SaturationControlled(SLOW, **how), 0.999, 3, 2, "016"),
        (lambda **how: SaturationControlled(SLOW, **how), 0.99999, 5, 3, "01236"),
    ],
)
def test_the_first_item_goes_where_it_was_published_to(
    policy: Callable[..., Policy], target: float, n: int, k: int, nodes: str
) -> None:
    found = policy(compatible=True).place(most_used(), size=100, target=target)
    assert (found.k + found.m, found.k, "".join(sorted(found.nodes))) == (n, k, nodes)
    assert found.loss == pytest.approx(loss_of([most_used()[int(name)] for name in found.nodes], found.k))


# -- against the definitions ---------------------------------------------------------------------------------------


def reliability(nodes: Sequence[Node], k: int) -> float:
    """By the recurrence of the definition."""
    odds = [1.0]
    for node in nodes:
        chance = 1 - exp(-node.annual_failure_rate)
        odds = [
            (odds[lost] if lost < len(odds) else 0.0) * (1 - chance) + (odds[lost - 1] if lost else 0.0) * chance
            for lost in range(len(odds) + 1)
        ]
    return sum(odds[: len(nodes) - k + 1])


def largest_k(nodes: Sequence[Node], target: float) -> int:
    return max((k for k in range(2, len(nodes)) if reliability(nodes, k) >= target), default=0)


def fits(nodes: Sequence[Node], share: float) -> bool:
    return all(node.free >= share for node in nodes)


def min_storage(nodes: list[Node], size: float, target: float) -> tuple[int, set[str]] | None:
    order, best, least = sorted(nodes, key=lambda node: -node.free), None, float("inf")
    for count in range(len(nodes), 1, -1):
        k = largest_k(order[:count], target)
        if k and size / k * count < least and fits(order[:count], size / k):
            best, least = (k, {node.name for node in order[:count]}), size / k * count
    return best


def least_used(nodes: list[Node], size: float, target: float) -> tuple[int, set[str]] | None:
    order = sorted(nodes, key=lambda node: -node.free)
    for count in range(2, len(nodes) + 1):
        k = largest_k(order[:count], target)
        if k and fits(order[:count], size / k):
            return k, {node.name for node in order[:count]}
    return None


def balance(nodes: list[Node], size: float, target: float) -> tuple[int, set[str]] | None:
    order = sorted(nodes, key=lambda node: -node.free)
    average = sum(node.free for node in order) / len(order)
    for parity in range(1, len(nodes)):
        found = []
        for k in range(2, len(nodes) - parity):
            taken, rest = order[: k + parity], order[k + parity :]
            if reliability(taken, k) >= target and fits(taken, size / k):
                unlike = sum(abs(node.free - size / k - average) for node in taken)
                found.append((unlike + sum(abs(node.free - average) for node in rest), k))
        if found:
            k = min(found)[1]
            return k, {node.name for node in order[: k + parity]}
    return None


def scarcity(nodes: list[Node], size: float, target: float) -> tuple[int, set[str]] | None:
    mean, found = sum(node.free for node in nodes) / len(nodes), []
    for count in range(2, len(nodes) + 1):
        for taken in combinations(nodes, count):
            k = largest_k(taken, target)
            if k and fits(taken, size / k):
                cost = sum((mean / node.free) ** 0.3 for node in taken) / k
                found.append((cost, k, {node.name for node in taken}))
    return min(found, key=lambda one: one[0])[1:] if found else None


def saturation(nodes: list[Node], size: float, target: float) -> tuple[int, set[str]] | None:
    """D-Rex SC for a first item, step by step."""
    order, n = sorted(nodes, key=lambda node: -node.capacity), len(nodes)
    total, room, largest = sum(o.capacity for o in order), sum(o.free for o in order), max(o.capacity for o in order)
    full = 1 - (1 / n) ** ((room - total) / (size - total))
    found = []
    for taken in [taken for count in range(2, n + 1) for taken in combinations(order, count)]:
        k = largest_k(taken, target)
        if not k or not fits(taken, size / k):
            continue
        share, count = size / k, len(taken)
        filled = sum(1 - (1 / n) ** ((o.free - share - largest) / (size - largest)) for o in taken) / count
        coding = (1000 + 100 * count - 50 * k + 3500 + 420 * k) * size / 100 / 1000
        there = max(size / 3125, share / min(o.write_bandwidth for o in taken))
        back = max(size / 3125, share / min(o.read_bandwidth for o in taken))
        found.append(((filled, coding + there + back, share * count), k, {o.name for o in taken}))

    def surpassed(one: tuple[float, ...]) -> bool:
        return any(all(a <= b for a, b in zip(o[0], one, strict=True)) and o[0] != one for o in found)

    front = [one for one in found if not surpassed(one[0])]
    if not front:
        return None
    axes = [[one[0][axis] for one in front] for axis in range(3)]

    def progress(axis: int, cost: float) -> float:
        low, high = min(axes[axis]), max(axes[axis])
        return 100 - 100 * (cost - low) / (high - low) if high > low else 0.0

    def score(one: tuple[tuple[float, float, float], int, set[str]]) -> float:
        filled, seconds, stored = one[0]
        return (1 - full) * progress(1, seconds) + (progress(2, stored) + progress(0, filled)) / 2

    return max(front, key=score)[1:]


@pytest.mark.parametrize(
    ("policy", "defined"),
    [
        (GreedyMinStorage, min_storage),
        (GreedyLeastUsed, least_used),
        (LoadBalance, balance),
        (ScarcityPrice, scarcity),
        (lambda **how: SaturationControlled(SLOW, **how), saturation),
    ],
)
def test_a_policy_is_what_its_definition_says(
    policy: Callable[..., Policy], defined: Callable[[list[Node], float, float], tuple[int, set[str]] | None]
) -> None:
    refused = 0
    for seed in range(40):
        nodes = some_nodes(seed)
        size, target = (
            random.Random(seed).choice([8.0, 64.0, 256.0, 640.0]),
            1 - 2.0 ** -random.Random(-seed).randint(3, 20),
        )
        found, expected = placed(policy(compatible=True), nodes, size=size, target=target), defined(nodes, size, target)
        assert (found and (found.k, set(found.nodes))) == expected, (seed, size, target)
        refused += expected is None
    assert 0 < refused < 40


def test_two_codes_that_leave_nodes_as_much_alike() -> None:
    """Their sums are equal, and differ by rounding alone where they are not taken in the order of room."""
    free = [5540.196507493339, 12631.414870662136, 5498.5598505125545, 5787.829093719102, 2809.6947151572285]
    rates = [0.1046, 0.1124, 0.0192, 0.0461, 0.0101, 0.0406]
    nodes = [
        Node(str(number), capacity=capacity, annual_failure_rate=rate)
        for number, (capacity, rate) in enumerate(zip([*free, 6793.997631974049], rates, strict=True))
    ]
    found = LoadBalance(compatible=True).place(nodes, size=2144.34375, target=0.99)
    assert (found.k, {*found.nodes}) == balance(nodes, 2144.34375, 0.99) == (2, {*"0135"})


def test_the_simulator_keeps_the_order_of_nodes_that_are_alike() -> None:
    policy = GreedyLeastUsed(compatible=True)
    nodes = {name: Node(name, capacity=100) for name in "abcd"}
    assert policy.place([*nodes.values()], size=20, target=0.9).nodes == ("a", "b", "c")
    nodes["d"] = Node("d", capacity=100, used=5)
    nodes["a"] = nodes["b"] = nodes["c"] = Node("a", capacity=100, used=10)
    nodes["b"], nodes["c"] = Node("b", capacity=100, used=10), Node("c", capacity=100, used=10)
    assert policy.place([*nodes.values()], size=20, target=0.9).nodes == ("d", "a", "b")
    alike = [Node(name, capacity=100, used=20) for name in "abcd"]
    assert policy.place(alike, size=20, target=0.9).nodes == ("d", "a", "b")
    assert GreedyLeastUsed().place(alike, size=20, target=0.9).nodes == ("a", "b", "c")


def test_the_simulator_remembers_the_smallest_item_and_the_last_measurement() -> None:
    times = Times({1.0: Coder((0, 0, 0), (0, 0, 0)), 100.0: SLOW.measured[100.0]})
    policy = SaturationControlled(times, compatible=True)
    assert policy._seen(1.0) == (1.0, 0.0), "no measurement: times are infinite and count for nothing"
    assert policy._seen(100.0) == (1.0, 100.0)
    assert policy._seen(2.0) == (1.0, 100.0), "1 MB is the nearest, and the last one stays"
    assert times.coding(1.0, 0.0, 3, 2) == float("inf")
    assert policy.place(most_used(), size=50, target=0.9).nodes
    assert SaturationControlled(times)._seen(2.0) == (2.0, 1.0)


@pytest.mark.parametrize("policy", [ScarcityPrice, SaturationControlled, GreedyMinStorage, LoadBalance])
def test_many_nodes(policy: type[Policy]) -> None:
    nodes = some_nodes(1, 40)
    found = policy().place(nodes, size=8, target=0.99999)
    assert len(set(found.nodes)) == found.k + found.m
    assert found.loss <= 1e-5
    assert placed(policy(compatible=True), nodes, size=8, target=0.99999)


# -- given codes ----------------------------------------------------------------------------------------------------


def test_who_has_no_room_gives_his_place_away() -> None:
    nodes = [Node(name, capacity=size, write_bandwidth=speed) for name, size, speed in (("a", 9, 9), ("b", 1, 8))]
    nodes += [Node(name, capacity=9, write_bandwidth=speed) for name, speed in (("c", 7), ("d", 6), ("e", 5))]
    assert Static(2, 1, compatible=True).place(nodes, size=4).nodes == ("a", "d", "c")
    assert Replicate(3).place(nodes, size=4)[:3] == (1, 2, ("a", "d", "c"))


def test_dynostore_fills_the_least_full() -> None:
    nodes = [Node(name, capacity=100, used=used) for name, used in zip("abcdef", (30, 10, 50, 20, 60, 40), strict=True)]
    assert UtilizationFactor().place(nodes, size=10)[:3] == (2, 3, ("b", "d", "a", "f", "c"))
    assert UtilizationFactor(2, 1, compatible=True).place(nodes, size=10, target=0.999999999).nodes == ("b", "d", "a")
    assert placed(UtilizationFactor(2, 1), nodes, size=10, target=0.999999999) is None


def test_daos_on_few_nodes() -> None:
    assert Daos().place(most_used()[:6], size=100, target=0.9)[:2] == (4, 1)
    assert Daos().place(most_used()[:9], size=100, target=0.9999)[:2] == (4, 2)
    assert placed(Daos(), most_used()[:5], size=100, target=0.9) is None
    full = [Node(f"n{number}", capacity=9 if number < 4 else 1) for number in range(6)]
    assert Daos().place(full, size=8, target=0.9)[:2] == (1, 3)
    assert placed(Daos(compatible=True), full, size=8, target=0.9) is None, "no room for (4, 1), and no other is tried"


# -- sites ----------------------------------------------------------------------------------------------------------


def at_sites(sites: str, **more: float) -> list[Node]:
    return [Node(f"{site}{number}", capacity=1000 - number, site=site, **more) for number, site in enumerate(sites)]


@pytest.mark.parametrize(
    "policy", [*ADAPTIVE, Daos, lambda: Static(4, 2), lambda: UtilizationFactor(4, 2), lambda: Replicate(3)]
)
@pytest.mark.parametrize("sites", ["aaaabbcc", "abcdefgh", "aabbccdd", "aaabbbcc"])
def test_any_one_site_may_go(policy: Callable[[], Policy], sites: str) -> None:
    found = policy().place(at_sites(sites), size=10, target=0.99)
    at = [name[0] for name in found.nodes]
    assert max(map(at.count, at)) <= found.m
    assert found.loss == pytest.approx(loss_of([node for node in at_sites(sites) if node.name in found.nodes], found.k))


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_sites_that_fail_count_in_the_target(policy: type[Policy]) -> None:
    nodes = at_sites("aabbccddee", annual_failure_rate=0.01, annual_site_failure_rate=0.001)
    found = policy().place(nodes, size=10, target=0.9999)
    assert found.loss <= 1e-4
    assert loss_of([node for node in nodes if node.name in found.nodes], found.k) == pytest.approx(found.loss)


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_a_site_of_ones_own_is_as_good_as_none(policy: type[Policy]) -> None:
    for seed in range(5):
        nodes = some_nodes(seed)
        sited = [
            Node(
                node.name,
                capacity=node.capacity,
                used=node.used,
                write_bandwidth=node.write_bandwidth,
                read_bandwidth=node.read_bandwidth,
                annual_site_failure_rate=node.annual_failure_rate,
                annual_failure_rate=0,
                site=f"s{node.name}",
            )
            for node in nodes
        ]
        one, other = (placed(policy(), each, size=8, target=0.999) for each in (nodes, sited))
        assert (one and one[:3]) == (other and other[:3])


def test_where_one_site_is_all_there_is() -> None:
    with pytest.raises(CapacityError, match="at one site, whose failure alone would lose the object; add sites"):
        GreedyMinStorage().place(at_sites("aaaa"), size=10, target=0.9)
    with pytest.raises(CapacityError, match="add sites"):
        Static(4, 2).place(at_sites("aaabbb"), size=10)
    assert GreedyMinStorage(site_safe=False).place(at_sites("aaaa"), size=10, target=0.9).k == 3
    assert Static(4, 2, site_safe=False).place(at_sites("aaabbb"), size=10).m == 2
    assert GreedyMinStorage(compatible=True).place(at_sites("aaaa"), size=10, target=0.9).k == 3


# -- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_copies_where_shards_will_not_do(policy: type[Policy]) -> None:
    pair = [Node("a", capacity=100), Node("b", capacity=100)]
    assert policy().place(pair, size=10, target=0.999)[:2] == (1, 1)
    assert placed(policy(compatible=True), pair, size=10, target=0.999) is None


@pytest.mark.parametrize(
    ("policy", "nodes", "wanted", "why"),
    [
        (GreedyMinStorage(), [], {}, r"GreedyMinStorage\(\) finds no place for 10 MB: it needs 2 nodes .* there are 0"),
        (ScarcityPrice(), [Node("a", capacity=99)], {}, r"ScarcityPrice\(0.3\) .* needs 2 nodes .* there are 1"),
        (Static(4, 2), at_sites("abc"), {}, r"Static\(4, 2\) .* needs 6 nodes that are up, and there are 3"),
        (GreedyLeastUsed(), [Node(name, capacity=99, up=name == "a") for name in "abc"], {}, "there are 1"),
        (LoadBalance(), [Node(name, capacity=1) for name in "abc"], {}, "only 0 of 3 nodes have room for a shard"),
        (Replicate(2), [Node("a", capacity=99), Node("b", capacity=1)], {}, "only 1 of 2 nodes have room"),
        (
            SaturationControlled(),
            [Node(name, capacity=99, annual_failure_rate=0.5) for name in "abc"],
            {"target": 0.999},
            r"even k=1 on the 3 safest nodes is lost with a probability of 0.061, and the target allows 0.001",
        ),
        (
            GreedyMinStorage(),
            [Node(name, capacity=6, annual_failure_rate=0.1) for name in "abc"],
            {"target": 0.999},
            "reliable enough have no room for shards of the size that takes",
        ),
    ],
)
def test_a_refusal_says_why(policy: Policy, nodes: list[Node], wanted: dict[str, float], why: str) -> None:
    with pytest.raises(CapacityError, match=why):
        policy.place(nodes, size=10, **wanted)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Node("a", capacity=-1),
        lambda: Node("a", capacity=float("nan")),
        lambda: Node("a", capacity=1, write_bandwidth=0),
        lambda: Node("a", capacity=1, annual_failure_rate=-0.1),
        lambda: GreedyMinStorage().place([Node("a", capacity=1)] * 2, size=1),
        lambda: GreedyMinStorage().place([], size=-1),
        lambda: GreedyMinStorage().place([], size=float("nan")),
        lambda: GreedyMinStorage().place([], size=1, target=1.0),
        lambda: GreedyMinStorage().place([], size=1, retention=-1),
        lambda: Static(0, 1),
        lambda: Static(4, 253),
        lambda: Replicate(0),
        lambda: ScarcityPrice(-1),
        lambda: Times({}),
    ],
)
def test_what_makes_no_sense(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"\.$"):
        call()


def test_no_object_is_too_small() -> None:
    for policy in ADAPTIVE:
        assert policy().place(most_used(), size=0, target=0.99).k >= 2
