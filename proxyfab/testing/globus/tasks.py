"""Tasks of the Globus that tests run against: queued, worked on three at a time, over directories, with faults.

A file is written in place: the first half when its task begins, the rest when it ends. Shapes are those of the SDK's
own fixtures. What the live service does where these say nothing (codes, words of `nice_status`) is a guess.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

Document = dict[str, Any]


@dataclass
class Faults:
    """What goes wrong; changed by tests at any time.

    Attributes:
        outcome: For tasks: `""`, `"fail"`, `"inactive"`, `"paused"` or `"stuck"` (active for ever).
        unreadable: Names of files that cannot be read.
        replies: One for each of the next requests whose path holds the text: `(text, status)`; status 0 drops the reply
            after the work was done.
        down: Every request is cut off.
        skew: Seconds by which the service's clock is ahead.
        consent: Collections that want a `data_access` consent.
        grants_consents: Whether asking for it helps.
    """

    outcome: str = ""
    unreadable: set[str] = field(default_factory=set)
    replies: list[tuple[str, int]] = field(default_factory=list)
    down: bool = False
    skew: float = 0.0
    consent: set[str] = field(default_factory=set)
    grants_consents: bool = True


@dataclass
class Work:
    """One task and the files it is about, as (source, target); a deletion has no sources."""

    document: Document
    pairs: list[tuple[Path | None, Path, str]]
    deadline: float
    begun: float = 0.0
    errors: list[Document] = field(default_factory=list)


class Tasks:
    """Does tasks, in a thread of its own.

    Args:
        faults: What goes wrong.
        seconds: How long a task takes.
        slots: Tasks that are worked on at a time.
    """

    def __init__(self, faults: Faults, seconds: float, slots: int) -> None:
        self.faults = faults
        self.seconds = seconds
        self.all: dict[str, Work] = {}
        self._slots = slots
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="globus-tasks", daemon=True)
        self._thread.start()

    def submit(self, document: Document, pairs: list[tuple[Path | None, Path, str]], deadline: float) -> Document:
        """A new task, or the one that this submission made already."""
        with self._changed:
            for work in self.all.values():
                if work.document["submission_id"] == document["submission_id"]:
                    return {"code": "Duplicate", "task_id": work.document["task_id"]}
            id = str(uuid.uuid4())
            state = {"task_id": id, "status": "ACTIVE", "nice_status": "Queued", "is_paused": False}
            self.all[id] = Work(document | state, pairs, deadline)
            self._changed.notify_all()
            return {"code": "Accepted", "task_id": id}

    def cancel(self, id: str) -> None:
        """End a task."""
        with self._changed:
            self._fail(self.all[id], "CANCELED", "The task was canceled by a user")

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        with self._changed:
            while not self._ending:
                self._step(time.time())
                self._changed.wait(0.01 if self._open() else None)

    def _open(self) -> list[Work]:
        return [work for work in self.all.values() if work.document["status"] in ("ACTIVE", "INACTIVE")]

    def _step(self, now: float) -> None:
        works = self._open()
        for work in works:
            if now + self.faults.skew >= work.deadline:
                self._fail(work, "EXPIRED", "The deadline has passed")
        for kind in ("TRANSFER", "DELETE"):
            ours = [work for work in works if work.document["type"] == kind]
            busy = [work for work in ours if work.begun]
            for work in [work for work in ours if not work.begun][: self._slots - len(busy)]:
                self._begin(work, now)
            for work in busy:
                if now - work.begun >= self.seconds and work.document["status"] == "ACTIVE":
                    self._end(work)

    def _begin(self, work: Work, now: float) -> None:
        work.begun = now
        work.document["nice_status"] = "OK"
        for source, target, _ in work.pairs:
            if source is not None and source.name not in self.faults.unreadable:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # told of when the task ends
                    content = source.read_bytes()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content[: len(content) // 2])

    def _end(self, work: Work) -> None:
        outcome = self.faults.outcome
        if outcome == "fail":
            return self._fail(work, "QUOTA_EXCEEDED", "Disk quota exceeded")
        if outcome == "inactive":
            work.document |= {"status": "INACTIVE", "nice_status": "CREDENTIALS_EXPIRED"}
        elif outcome == "paused":
            work.document |= {"is_paused": True, "nice_status": "PAUSED_BY_ADMIN"}
        elif outcome == "stuck":
            work.document |= {"nice_status": "CONNECT_FAILED", "nice_status_details": "No route to host"}
        else:
            self._finish(work)
        return None

    def _finish(self, work: Work) -> None:
        for source, target, path in work.pairs:
            if source is None:
                target.unlink(missing_ok=True)
            elif source.name in self.faults.unreadable:
                self._pass_over(work, path, "PERMISSION_DENIED", "Permission denied")
            else:
                try:  # whose files these are may delete them at any time
                    with source.open("rb") as file:
                        _copy(file, target)
                except (FileNotFoundError, IsADirectoryError):
                    self._pass_over(work, path, "FILE_NOT_FOUND", "No such file or directory")
        work.document |= {"status": "SUCCEEDED", "nice_status": None, "subtasks_skipped_errors": len(work.errors)}

    def _pass_over(self, work: Work, path: str, code: str, details: str) -> None:
        work.errors.append({"source_path": path, "error_code": code, "error_details": details})

    def _fail(self, work: Work, code: str, description: str) -> None:
        work.document |= {"status": "FAILED", "fatal_error": {"code": code, "description": description}}


def _copy(file: BinaryIO, target: Path) -> None:
    """Fill in place what was begun, unless it was deleted meanwhile."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as copy:
        shutil.copyfileobj(file, copy)
