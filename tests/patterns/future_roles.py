"""What other processes do in the tests of futures."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import InvalidStateError
from multiprocessing.connection import Connection
from typing import Any

from proxyfab.patterns import Future, as_completed


class Unpicklable(Exception):
    """Cannot be pickled at all."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Deceptive(Exception):
    """Pickles, and cannot be made again: the classic that hangs executors."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Ours(Exception):
    """Travels whole."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def fail(kind: str) -> None:
    """Raise something, two calls deep."""
    if kind == "ours":
        raise Ours(7)
    if kind == "unpicklable":
        raise Unpicklable("holds a lock")
    if kind == "deceptive":
        raise Deceptive(404, "not there")
    if kind == "mute":
        raise Mute
    if kind == "large":
        raise ValueError("x" * 50_000)
    if kind == "local":

        class Local(Exception):
            pass

        raise Local("of a function")
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("with a cause") from error


def set_when_told(talk: Connection, future: Future[Any], value: Any) -> float:
    """Say ready, wait for a word, set; when it began."""
    talk.send("ready")
    talk.recv()
    started = time.monotonic()
    future.set_result(value)
    return started


def set_errors(talk: Connection, many: dict[str, Future[Any]]) -> None:
    """Set each to what `fail` raises for its kind."""
    for kind, future in many.items():
        try:
            fail(kind)
        except Exception as error:
            future.set_exception(error)


def race(talk: Connection, futures: list[Future[Any]], name: str) -> list[bool]:
    """Set or cancel all of them at the word; which of them it won."""
    talk.send("ready")
    talk.recv()
    return [_won(future, name, number) for number, future in enumerate(futures)]


def _won(future: Future[Any], name: str, number: int) -> bool:
    try:
        match (number + ord(name[0])) % 3:
            case 0:
                future.set_result(name)
            case 1:
                future.set_exception(ValueError(name))
            case _:
                return future.cancel() and "cancelled by us"  # type: ignore[return-value]  # told apart by the test
    except InvalidStateError:
        return False
    return True


def result_of(talk: Connection, future: Future[Any], timeout: float = 30) -> Any:
    """Wait for a future."""
    talk.send("waiting")
    return future.result(timeout)


def touch(talk: Connection, proxy: Any) -> Any:
    """Use a proxy."""
    talk.send("waiting")
    return sum(proxy)


def collect(talk: Connection, futures: list[Future[Any]]) -> list[Any]:
    """The results as they come."""
    talk.send("waiting")
    return [future.result() for future in as_completed(futures, 30)]


def set_all(talk: Connection, futures: list[Future[Any]]) -> None:
    """Set each to its number."""
    talk.send("ready")
    talk.recv()
    for number, future in enumerate(futures):
        future.set_result(number)


def wait_and_leave(talk: Connection, future: Future[Any], how: str) -> None:
    """Have a hub, callbacks and a prefetched proxy wait, and end."""
    from proxyfab import prefetch

    future.add_done_callback(print)
    prefetch(future.proxy())
    waiting = threading.Thread(target=future.exception, daemon=True)
    waiting.start()
    talk.send(threading.active_count())
    talk.recv()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def promise_and_hang(talk: Connection, future: Future[Any], how: str) -> str:
    """Promise, say so, and then die, hang until told, fail, leave without a result, or set it."""
    try:
        with future.promise():
            talk.send("promised")
            word = talk.recv()
            if how == "fail":
                fail("ours")
            if how in ("set", "stopped"):
                future.set_result(word)
    except InvalidStateError:
        return "too late"
    except Ours:
        return "failed"
    return "left"
