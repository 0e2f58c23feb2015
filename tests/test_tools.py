"""The scripts behind the Makefile find a Python that works, and say what to do where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with nothing but a shell's needs, and a home without pyenv."""
    for name in ("bash", "env", "mktemp", "cat", "rm"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def command(machine: Path, name: str, script: str) -> None:
    path = machine / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def run(machine: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(machine), "HOME": str(machine)}
    return subprocess.run(
        [TOOLS / tool, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_newest_python_that_works_is_taken(machine: Path) -> None:
    command(machine, "python3.13", "echo 'a shim: not found' >&2; exit 127")
    command(machine, "python3", f'exec {sys.executable} "$@"')

    found = run(machine, "find-python")

    assert os.path.realpath(found.stdout.strip()) == os.path.realpath(sys.executable)
    assert run(machine, "find-python", "--version").stdout.strip() == "{}.{}".format(*sys.version_info)


def test_an_old_python_is_named_and_the_way_out_is_told(machine: Path) -> None:
    command(machine, "python3", '[ "$1" = --version ] && echo Python 3.9.2 || exit 3')

    found = run(machine, "find-python")

    assert found.returncode == 1
    assert "3.11 or newer" in found.stderr
    assert "Python 3.9.2" in found.stderr
    assert "apt install" in found.stderr


def test_a_python_is_found_among_pyenvs(machine: Path) -> None:
    (machine / ".pyenv/versions/3.99.0/bin").mkdir(parents=True)
    (machine / ".pyenv/versions/3.99.0/bin/python3.99").symlink_to(sys.executable)

    assert run(machine, "find-python", "python3.99").returncode == 0
    assert run(machine, "find-python", "python3.98").returncode == 1


def test_a_python_without_pip_is_told_the_apt_line(machine: Path) -> None:
    command(machine, "python3", '[ "$1" = -c ] && echo 3.11 || { echo "No module named $2" >&2; exit 1; }')

    made = run(machine, "make-venv", str(machine / "python3"), str(machine / "venv"))

    assert made.returncode == 1
    assert "apt install python3.11-venv" in made.stderr
    assert not (machine / "venv").exists()


def test_programs_that_are_lacking_are_installed_or_named(machine: Path) -> None:
    for name in ("ip", "chmod", "tee"):
        command(machine, name, "")
    command(machine, "id", "echo 0")

    alone = run(machine, "get-programs")
    installed = f"for name in redis-server nft; do ln -s $0 {machine}/$name; done"
    command(machine, "apt-get", f'echo "$*" >>{machine}/asked; [ "$1" = update ] || {installed}')
    (machine / "ln").symlink_to(str(shutil.which("ln")))
    helped = run(machine, "get-programs")

    assert alone.returncode == helped.returncode == 0
    assert "apt-get install redis-server" in alone.stderr
    assert "apt-get install nftables" in alone.stderr
    assert "iproute2" not in alone.stdout + alone.stderr
    assert helped.stderr == ""
    assert (machine / "asked").read_text().splitlines()[-1].endswith(" redis-server nftables")


FLAKY = """
import os
from pathlib import Path

def test_once():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        assert False

def test_well(): ...
"""
CRASH = """

def test_crash():
    import faulthandler
    def the_place(): faulthandler._sigsegv()
    the_place()
"""


def outcome_of(place: Path, program: str) -> subprocess.CompletedProcess[str]:
    """What tools/run-tests says of a suite of its own under this suite's rules."""
    shutil.copy(Path(__file__).with_name("conftest.py"), place)
    (place / "test_it.py").write_text(program)
    (place / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    timing\n")
    command = [TOOLS / "run-tests", sys.executable, "1", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(TOOLS.parent)}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_what_failed_beside_others_and_passes_alone_is_named(tmp_path: Path) -> None:
    done = outcome_of(tmp_path, FLAKY)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert done.stdout.endswith(
        "\nFailed:\n  test_it.py::test_once: assert False\n"
        "\nFailed beside others, passed alone:\n  test_it.py::test_once\n"
    )


def test_a_worker_that_crashed_is_no_flaky_test(tmp_path: Path) -> None:
    done = outcome_of(tmp_path, FLAKY + CRASH)

    assert done.returncode == 1
    assert "once more" not in done.stdout
    end = done.stdout[done.stdout.index("\nFailed:\n") :]
    assert "  test_it.py::test_crash: worker 'gw0' crashed while running" in end
    assert "Crashed, gw0:\nFatal Python error: Segmentation fault" in end
    assert "test_it.py" in end.partition("Segmentation fault")[2]
    assert "in the_place" in end


@pytest.mark.parametrize(("failed", "again", "status"), [(5, 0, 0), (5, 1, 1), (6, 0, 1)])
def test_a_few_are_run_again_and_many_are_not(tmp_path: Path, failed: int, again: int, status: int) -> None:
    command(
        tmp_path,
        "python",
        'if [ -n "${TEST_NOTES:-}" ]; then\n'
        '    touch "$TEST_NOTES/said"\n'
        f'    for each in $(seq {failed}); do echo "test_it.py::test[$each one]"; done >"$TEST_NOTES/again"; exit 1\n'
        f'fi\nprintf "%s\\n" "$@" >again; exit {again}',
    )
    done = subprocess.run([TOOLS / "run-tests", tmp_path / "python", "2"], cwd=tmp_path, check=False, timeout=60)

    assert done.returncode == status
    asked = (tmp_path / "again").read_text().splitlines() if (tmp_path / "again").exists() else []
    assert [name for name in asked if "::" in name] == [f"test_it.py::test[{n + 1} one]" for n in range(failed % 6)]
