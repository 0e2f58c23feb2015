"""The simulator of placements: nothing appears or vanishes, targets are met, and what failing nodes cost is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.placement.__main__ import main
from benchmarks.placement.inputs import NODES, OFFERED, TRACES, Item, items_of, nodes_of
from benchmarks.placement.simulate import CODERS, POLICIES, After, after, failing_first, simulate
from proxyfab.erasure.placement import Node, Replicate, Static, loss_of

TIMES = CODERS["fast"]


def equal_nodes(count: int, capacity: float) -> list[Node]:
    return [Node(str(number), capacity=capacity, annual_failure_rate=0.01) for number in range(count)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("nodes", ["mixed", "sites"])
def test_what_is_kept_is_where_it_fits_and_as_safe_as_it_should_be(policy: str, nodes: str) -> None:
    disks = nodes_of(nodes, 1e-4)
    items = items_of("objects", seed=3, scale=1e-4)
    run = simulate(disks, items, POLICIES[policy](TIMES, False), TIMES)

    used = dict.fromkeys([node.name for node in disks], 0.0)
    by_name = {node.name: node for node in disks}
    for item, found in run.kept:
        assert len(set(found.nodes)) == found.k + found.m
        assert loss_of([by_name[name] for name in found.nodes], found.k) <= 1 - item.target + 1e-12
        for name in found.nodes:
            used[name] += item.size / found.k
    assert all(used[name] <= by_name[name].capacity * (1 + 1e-9) for name in used)
    assert run.raw == pytest.approx(sum(used.values()))
    assert run.offered == pytest.approx(sum(item.size for item in items))
    assert run.stored == pytest.approx(sum(item.size for item, _ in run.kept))
    assert 0 < run.stored < run.offered
    assert run.curve[-1] == (run.offered, run.stored)


def test_a_full_system_refuses_and_times_are_those_of_the_slowest_node() -> None:
    nodes = [*equal_nodes(5, 100), Node("slow", capacity=100, write_bandwidth=10, read_bandwidth=20)]
    run = simulate(nodes, [Item(100, 0.0, 365)] * 5, Static(4, 2), TIMES)

    assert (run.stored, run.objects, run.raw) == (400, 5, 600)  # 4 times 25 MB fill 100 MB
    assert run.moving == pytest.approx(4 * (25 / 10 + 25 / 20))
    assert run.coding == pytest.approx(4 * 0.053)


def test_nodes_that_fail_at_once_lose_what_they_outnumber_and_one_by_one_move_it() -> None:
    nodes = equal_nodes(4, 100)
    run = simulate(nodes, [Item(30, 0.0, 365)] * 4, Replicate(2), TIMES)
    where = [found.nodes for _, found in run.kept]
    gone = list(where[0])

    assert after(nodes, run.kept, Replicate(2), []) == After(0, 0, 0)
    then = after(nodes, run.kept, Replicate(2), gone)
    assert then.lost == 30 * sum(set(names) <= set(gone) for names in where)
    # 240 MB on four; two are left for 200: three objects of 60 MB, as a node takes three copies.
    assert then.homeless == 30
    assert after(nodes, run.kept, Replicate(2), [node.name for node in nodes]).lost == run.stored


def test_sites_fail_as_a_whole_and_the_frail_first() -> None:
    nodes = [
        Node(f"{site}{number}", capacity=1, site=site, annual_failure_rate=0, annual_site_failure_rate=0.1)
        for number in range(2)
        for site in "ab"
    ]
    assert all(len({name[0] for name in failing_first(nodes, 2, seed)}) == 1 for seed in range(20))
    firm = [*equal_nodes(3, 1), Node("frail", capacity=1, annual_failure_rate=1e6)]
    assert failing_first(firm, 1, 1) == ["frail"]


def test_published_files_are_read(tmp_path: Path) -> None:
    nodes, trace = tmp_path / "nodes.csv", tmp_path / "trace.csv"
    nodes.write_text(
        "id,storage_size, write_bandwidth, read_bandwidth,annual_failure_rate\n0, 14000000, 125, 116, 24.29\n"
    )
    trace.write_text("id,size,Relative Time (s),time_spent,Access Type\n1,2e7,0,0,2\n1,2e7,0,0,1\n")
    expected = Node("0", capacity=7e6, write_bandwidth=125, read_bandwidth=116, annual_failure_rate=0.2429)

    assert nodes_of(str(nodes), 0.5) == [expected]
    assert [item.size for item in items_of(str(trace), seed=1)] == [2e7] * 6


@pytest.mark.parametrize("trace", TRACES)
def test_a_seed_is_a_trace(trace: str) -> None:
    scale = 0.02 if trace == "batch" else 0.001
    one = items_of(trace, seed=1, scale=scale)
    assert one == items_of(trace, seed=1, scale=scale)
    assert one != items_of(trace, seed=2, scale=scale)
    assert [item.size for item in one] == [item.size for item in items_of(trace, seed=1, scale=scale, target=0.9)]
    assert 0.3 < sum(item.size for item in one) / OFFERED / scale <= 1
    assert all(0.9 <= item.target <= 0.99999 for item in one)


def test_all_policies_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ["--scale", "0.0002", "--trace", "tiles", "--seed", "1", "--seed", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, asked, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert all(any(line.startswith(policy) for line in done.output.splitlines()) for policy in POLICIES)
    found = json.loads((tmp_path / "results.json").read_text())["tiles on mixed"]
    assert list(found) == list(POLICIES)
    assert all(len(runs) == 2 and 0 < runs[0]["stored"] < 1 for runs in found.values())
    assert (tmp_path / "tiles-on-mixed.png").stat().st_size > 10_000
    assert set(NODES) >= {"mixed", "unreliable", "alike", "sites"}
