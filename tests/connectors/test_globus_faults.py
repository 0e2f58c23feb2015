"""globus:// when the service, the network or a process fails: each fault ends well, or as its typed error, in time."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.globus import GlobusConnector
from proxyfab.connectors.globus.service import Service
from proxyfab.errors import (
    ConnectorError,
    ConsentRequired,
    CredentialsExpired,
    ProxyfabError,
    TransferFailed,
    TransferPaused,
    TransferStalled,
)
from proxyfab.keys import Key
from proxyfab.testing import in_fork, until
from proxyfab.testing.globus import GlobusServer
from proxyfab.testing.globus.tasks import Faults, Tasks
from proxyfab.testing.interrupts import Interrupt

pytest.importorskip("globus_sdk")
A, B = (str(uuid.UUID(int=number)) for number in (20, 21))
Pair = tuple[GlobusConnector, GlobusConnector]
Open = Callable[..., GlobusConnector]
DATA = Frames([b"what was measured" * 1000])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusServer]:
    with GlobusServer({A: tmp_path / "a", B: tmp_path / "b"}) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def at(server: GlobusServer) -> Iterator[Open]:
    opened: list[GlobusConnector] = []

    def open_at(here: str, **options: Any) -> GlobusConnector:
        sites = [f"{site},/fab,{place}/fab" for site, place in server.collections.items()]
        usual: dict[str, Any] = {"push": False, "patience": 15.0, "grace": 0.3}
        opened.append(GlobusConnector(sites, name="run", here=here, **(usual | options)))
        return opened[-1]

    yield open_at
    server.faults.down = False
    server.faults.replies.clear()
    for connector in opened:
        connector.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [("submission_id", 503), ("submission_id", 429), ("/transfer", 0), ("/transfer", 503), ("task_list", 0)],
)
def test_lost_replies_and_busy_services_are_asked_again(at: Open, server: GlobusServer, path: str, status: int) -> None:
    key = at(A).put(DATA)
    server.faults.replies.append((path, status))
    server.tasks.seconds = 1.0  # long enough to be asked about

    assert at(B).get(key) == DATA
    assert server.faults.replies == []
    assert len(server.tasks.all) == 1


def test_a_token_that_expires_while_waiting_is_renewed(at: Open, server: GlobusServer) -> None:
    server.tasks.seconds = 60
    key, other = at(A).put(DATA), at(B)

    reader = threading.Thread(target=lambda: other.get(key))
    reader.start()
    until(lambda: bool(server.tasks.all), 10)
    server.expire_tokens()
    until(lambda: server.requests.count("POST /v2/oauth2/token") == 2, 10)
    server.tasks.seconds = 0
    reader.join(15)

    assert other.stat(key) is not None
    assert server.requests.count("POST /v2/oauth2/token") == 2


@pytest.mark.parametrize(
    ("outcome", "kind", "words", "code"),
    [
        ("fail", TransferFailed, "Disk quota exceeded", "QUOTA_EXCEEDED"),
        ("paused", TransferPaused, "paused", "PAUSED"),
        ("stuck", TransferStalled, "CONNECT_FAILED: No route to host", "CONNECT_FAILED"),
    ],
)
def test_what_ails_a_task_is_its_readers_error(
    at: Open, server: GlobusServer, outcome: str, kind: type[TransferFailed], words: str, code: str
) -> None:
    server.faults.outcome = outcome
    key = at(A).put(DATA)

    with pytest.raises(kind, match=words) as caught:
        at(B).get(key)

    task = next(iter(server.tasks.all))
    assert caught.value.code == code
    assert caught.value.link == f"https://app.globus.org/activity/{task}"
    assert caught.value.link in str(caught.value)
    assert outcome != "stuck" or server.tasks.all[task].document["fatal_error"]["code"] == "CANCELED"


def test_a_task_that_waits_for_credentials_says_what_to_run(at: Open, server: GlobusServer) -> None:
    server.faults.outcome = "inactive"
    key = at(A).put(DATA)

    with pytest.raises(CredentialsExpired, match="run: proxyfab globus login"):
        at(B).get(key)


def test_of_many_files_one_that_cannot_be_read_is_an_error_and_the_others_come(at: Open, server: GlobusServer) -> None:
    keys = at(A).put_many([DATA] * 6)
    server.faults.unreadable.add(keys[2].id)
    other = at(B, push=True)  # whose wait looks at what is here

    with pytest.raises(TransferFailed, match="PERMISSION_DENIED"):
        other.get_many(keys)
    assert [other.wait(key, 0) for key in keys] == [True, True, False, True, True, True]


def test_a_transfer_that_is_too_slow_ends_at_its_deadline_whatever_the_clocks(at: Open, server: GlobusServer) -> None:
    server.faults.skew = -3600.0
    server.tasks.seconds = 60.0
    key = at(A).put(DATA)
    begun = time.monotonic()

    with pytest.raises(TransferFailed, match=r"EXPIRED|was not done after"):
        at(B, patience=1.5).get(key)
    assert time.monotonic() - begun < 1.5 + 3 + 2


def test_without_the_service_what_is_here_is_read_and_what_is_not_is_an_error_soon(
    at: Open, server: GlobusServer
) -> None:
    one, other = at(A, push=True), at(B)
    server.faults.down = True
    key = one.put(DATA)

    assert one.get(key) == DATA
    with pytest.raises(ConnectorError, match="cannot be reached"):
        other.get(key)
    server.faults.down = False
    one.flush(15)
    assert other.get(key) == DATA


def test_a_consent_is_given_by_a_service_itself_and_asked_of_a_person(
    at: Open, server: GlobusServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = at(A).put(DATA)
    server.faults.consent.add(A)
    assert at(B).get(key) == DATA

    refused = ConsentRequired("Globus wants a consent; run: proxyfab globus login --consent x")
    refused.scopes = ("x",)
    monkeypatch.delenv("PROXYFAB_GLOBUS_CLIENT_SECRET")
    monkeypatch.setenv("PROXYFAB_GLOBUS_TOKENS", str(tmp_path / "tokens/tokens.json"))
    with pytest.raises(CredentialsExpired, match="run: proxyfab globus login"):  # and nobody is prompted
        at(B).get(Key.draw(key.where))


def test_a_consent_that_cannot_be_given_is_explained(at: Open, server: GlobusServer) -> None:
    key = at(A).put(DATA)
    server.faults.consent.add(A)
    server.faults.grants_consents = False

    with pytest.raises(ConsentRequired, match=r"proxyfab globus login --consent '.*data_access\]'") as caught:
        at(B).get(key)
    assert "data_access" in caught.value.scopes[0]


@pytest.mark.parametrize("submitted", [False, True], ids=["before", "after"])
def test_a_writer_killed_around_its_submission_is_finished_by_the_next(
    at: Open, server: GlobusServer, submitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tasks.seconds = 0.3
    spec = at(A, push=True, patience=30.0).spec
    monkeypatch.setenv("PROXYFAB_GLOBUS_COLLECTION", A)

    def put_and_die() -> str:
        submit = Service.submit

        def die(service: Service, job: Any) -> str:
            if submitted:
                submit(service, job)
            os.write(told, key)
            os._exit(9)

        Service.submit = die  # type: ignore[method-assign]  # a kill at exactly this place
        connector = GlobusConnector.from_url(spec)
        key = str(connector.put(DATA)).encode()
        connector.flush(20)
        return ""

    ear, told = os.pipe()
    with pytest.raises(Exception, match="9|ended|died|exit"):
        in_fork(put_and_die)
    key = Key.parse(os.read(ear, 1000).decode())
    os.close(ear)
    os.close(told)

    successor = at(A, push=True)
    successor.put(DATA)
    successor.flush(20)

    assert at(B).get(key) == DATA
    ids = [work.document["submission_id"] for work in server.tasks.all.values()]
    assert len(ids) == len(set(ids)) == 2
    assert not list((server.collections[A] / "fab/outbox/run").glob("*.jsonl")) or successor.get(key) == DATA


def test_flush_tells_what_failed_for_nobody_in_particular(at: Open, server: GlobusServer) -> None:
    server.faults.outcome = "fail"
    one = at(A, push=True)
    one.put(DATA)

    with pytest.raises(TransferFailed, match="Disk quota"):
        one.flush(15)
    one.flush(15)


def test_errors_are_proxyfabs(at: Open, server: GlobusServer) -> None:
    key = at(A).put(DATA)
    server.faults.replies.extend([("stat", 403), ("stat", 400)])

    for words in ("refuses", "HTTP 400"):
        with pytest.raises(ProxyfabError, match=words):
            at(B).get(key)


class _Near(Interrupt):
    """Counts what a caller's thread runs of the courier and of what it waits with, and nothing else."""

    def _looks(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.endswith(_THEIRS) and super()._looks(frame)


_THEIRS = ("globus/courier.py", "globus/flights.py", "globus/outbox.py", "proxyfab/waiting.py", "/threading.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_of_who_waits_for_the_courier_holds_up_nobody(at: Open, server: GlobusServer) -> None:
    server.tasks.seconds = 0.01
    one, other = at(A), at(B)
    keys = [one.put(DATA) for _ in range(40)]
    number, step = 0, 3
    while keys:
        key, number = keys.pop(), number + step
        interrupt = _Near(number)
        came_out = interrupt.run(lambda: other.get(key))  # noqa: B023
        assert came_out == interrupt.came, interrupt.where

        told: list[object] = []
        reader = threading.Thread(target=lambda: told.append(other.get(keys[0] if keys else key)))  # noqa: B023
        reader.start()
        reader.join(20)
        assert told == [DATA], interrupt.where
        if not interrupt.came:
            return
    pytest.fail(f"{number} instructions were not all: more keys, or a larger step")


class Goes(type(Path())):  # type: ignore[misc]  # its base is found when it runs
    """A file that its owner deletes as soon as somebody has seen it."""

    def is_file(self) -> bool:
        found = super().is_file()
        self.unlink(missing_ok=True)
        return found

    def open(self, *_: Any, **__: Any) -> Any:
        raise FileNotFoundError(str(self))


def test_a_file_that_goes_while_its_task_is_worked_on_fails_and_the_service_lives(tmp_path: Path) -> None:
    faults = Faults()
    tasks = Tasks(faults, 0.0, 3)
    try:
        for number, kind in enumerate((Goes, Path)):
            (tmp_path / "source").write_bytes(b"x")
            source, target = kind(tmp_path / "source"), tmp_path / f"target{number}"
            tasks.submit({"submission_id": kind, "type": "TRANSFER"}, [(source, target, "/source")], time.time() + 60)
        assert until(lambda: all(work.document["status"] == "SUCCEEDED" for work in tasks.all.values()))
    finally:
        tasks.close()
    gone, there = tasks.all.values()
    assert ([each["error_code"] for each in gone.errors], there.errors) == (["FILE_NOT_FOUND"], [])
    assert (tmp_path / "target1").read_bytes() == b"x"
