"""`proxyfab erasure`: scrubbing, repairing, draining, adding and planning, as an administrator types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxyfab import Store
from proxyfab.cli.main import main
from proxyfab.connectors.erasure import ErasureConnector


def call(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["erasure", *args])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def url(tmp_path: Path) -> str:
    children = "&".join(f"child=file://{tmp_path}/{number};site=s{number}" for number in range(4))
    with Store(f"erasure://?k=2&m=1&small=1KiB&{children}", name="run", cache=0, inline_below=0) as store:
        for number in range(4):
            store.put(bytes(20_000 + number), key=f"large-{number}")
        store.put("small")
        return store.url


def reads(url: str) -> bool:
    one = ErasureConnector.from_url(url.partition("#")[0])
    try:
        return [one.get(stat.key) is not None for stat in one.scan()] == [True] * 5
    finally:
        one.close()


def test_what_is_lost_is_seen_and_restored(url: str, tmp_path: Path) -> None:
    title, _, *rows = call("status", url).stdout.splitlines()
    assert title == url, "one line, however long"
    assert all("well" in row for row in rows)
    assert json.loads(call("scrub", url, "--json").stdout)["missing"] == 0
    shutil.rmtree(tmp_path / "1")
    absent = json.loads(call("status", url, "--json").stdout)
    assert [row["state"] for row in absent] == ["well", "absent", "well", "well"]
    assert f"{tmp_path}/1 " in absent[1]["fault"]
    bad = json.loads(call("scrub", url, "--json", status=1).stdout)
    assert bad["missing"] > 0
    assert json.loads(call("repair", url, "--json").stdout)["restored"] == bad["missing"]
    call("scrub", url)
    shutil.rmtree(tmp_path / "2")
    assert reads(url)
    assert {row["shards"] for row in json.loads(call("status", url, "--json").stdout)} != {0}


def test_what_is_noted_of_objects_counts_as_no_shard(url: str) -> None:
    before = [row["shards"] for row in json.loads(call("status", url, "--json").stdout)]
    one = ErasureConnector.from_url(url.partition("#")[0])
    one.scattering.means.mark_upload(bytes(16), 60.0)
    one.scattering.means.mark_gone(bytes(16).hex(), range(4))
    one.close()
    assert [row["shards"] for row in json.loads(call("status", url, "--json").stdout)] == before


def test_a_place_goes_and_another_comes(url: str, tmp_path: Path) -> None:
    child = next(part for part in url.split("child=") if f"{tmp_path}/0" in part).partition(";")[0]
    assert json.loads(call("drain", url, child, "--json").stdout)["moved"] > 0
    assert reads(url)
    rows = json.loads(call("status", url, "--json").stdout)
    assert [(row["state"], row["shards"] > 0) for row in rows] == [("drained", False), *[("well", True)] * 3]
    new = f"file://{tmp_path}/new?ns=run;site=new"
    assert "Take it out of the URL first" in call("add", url, new, status=2).output
    assert "Take it out of the URL first" in call("drain", url, "1", status=2).output
    less = url.replace(url[url.index("child=") : url.index("child=", url.index("child=") + 1)], "")
    assert f"{tmp_path}/0" not in less
    added = json.loads(call("add", less, new, "--rebalance", "--json").stdout)
    assert added["moved"] > 0
    assert reads(added["url"])
    assert "add` printed" in call("drain", less, "1", status=2).output
    call("drain", added["url"], "9", status=2)
    call("status", f"file://{tmp_path}/0", status=2)


def test_nothing_is_drained_while_something_lacks(url: str, tmp_path: Path) -> None:
    """A shard that lacks is restored before another one is moved; where it cannot be, nothing moves."""
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "1").write_text("no directory any more")
    assert "is not drained" in call("drain", url, "0", status=1).output
    (tmp_path / "1").unlink()
    call("drain", url, "0")
    shutil.rmtree(tmp_path / "0")
    shutil.rmtree(tmp_path / "2")
    assert reads(url)


def test_a_plan_is_the_cheapest_that_will_do() -> None:
    rows = json.loads(call("plan", "--sites", "6", "--target", "0.9999", "--json").stdout)
    assert (rows[0]["k"], rows[0]["m"]) == (4, 2)
    assert all(row["loss"] <= 1e-4 for row in rows)
    assert "erasure://?k=4&m=2" in call("plan", "--sites", "6", "--target", "0.9999").stdout
    call("plan", "--sites", "2", "--target", "0.9999999999", status=1)
    for days in ("-5", "0", "nan", "inf"):
        assert "and --days" in call("plan", "--days", days, status=2).output
    widest = call("plan", "--sites", "300", "--target", "0.9", "--afr", "0.001").stdout
    assert "over 256 children" in widest, "no code has more shards"
