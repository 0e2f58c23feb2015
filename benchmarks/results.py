"""The figures of a run: kept as JSON, asked by name, merged with those of an earlier run that it did not repeat."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import Outcome, Row, Skipped


class NotMeasured(LookupError):
    """A figure that a target needs is not there."""


class Results:
    """Rows by (bench, what, system, kind, nbytes)."""

    def __init__(self, machine: dict[str, Any]) -> None:
        self.machine = machine
        self.ran: dict[str, str] = {}
        self.rows: list[Row] = []
        self.skipped: list[Skipped] = []

    def add(self, bench: str, when: str, outcome: Outcome) -> None:
        """Take a benchmark's outcome in place of an earlier one."""
        self.ran[bench] = when
        self.rows = [row for row in self.rows if row.bench != bench] + outcome.rows
        self.skipped = [skip for skip in self.skipped if skip.bench != bench] + outcome.skipped

    def find(self, bench: str, what: str, system: str, kind: str = "", nbytes: int = 0) -> Row:
        """The row; NotMeasured when there is none."""
        for row in self.rows:
            if row[:3] == (bench, what, system) and (row.kind, row.nbytes) == (kind, nbytes):
                return row
        raise NotMeasured(f"{bench}: {what} by {system} ({kind} {nbytes})")

    def median(self, bench: str, what: str, system: str, kind: str = "", nbytes: int = 0) -> float:
        """The row's median."""
        return self.find(bench, what, system, kind, nbytes).median

    def select(self, bench: str, what: str | None = None, kind: str | None = None) -> list[Row]:
        """Rows of a benchmark, in the order they were measured."""
        return [
            row for row in self.rows if row.bench == bench and what in (None, row.what) and kind in (None, row.kind)
        ]

    def sizes(self, bench: str, what: str, systems: Iterable[str], kind: str) -> list[int]:
        """The payload sizes at which all of `systems` were measured."""
        found = [{row.nbytes for row in self.select(bench, what, kind) if row.system == name} for name in systems]
        return sorted(set.intersection(*found)) if found else []

    def save(self, path: Path, more: dict[str, Any]) -> None:
        """Write as JSON."""
        content = {
            "machine": self.machine,
            "ran": self.ran,
            **more,
            "rows": [row._asdict() for row in self.rows],
            "skipped": [skip._asdict() for skip in self.skipped],
        }
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, machine: dict[str, Any]) -> Results:
        """An earlier run's figures if it was on this machine with these versions; nothing otherwise."""
        self = cls(machine)
        if path.exists():
            content = json.loads(path.read_text())
            if content["machine"] == machine:
                self.ran = content["ran"]
                self.rows = [Row(**row) for row in content["rows"]]
                self.skipped = [Skipped(**skip) for skip in content["skipped"]]
        return self
