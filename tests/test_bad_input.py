"""Bad input: each is a ProxyfabError that names what, where and what to do, and nothing else is harmed by it."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab import Key, Store, open_store, registry, resolve
from proxyfab.errors import (
    AccessDenied,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    IntegrityError,
    KeyNotFound,
    MissingDependency,
    ProxyfabError,
    SerializationError,
)
from proxyfab.testing import Child
from proxyfab.testing.processes import ChildFailed, in_fork

SCHEMES = ["memory", "shm", "file"]


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/place" if request.param == "file" else f"{request.param}://"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url, inline_below=0) as store:
        yield store
        store.clear()


def message(kind: type[ProxyfabError], call: Callable[[], Any]) -> str:
    """The text of the error that the call raises; a sentence that begins with a capital or a name and ends well."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert len(text) > 25, text
    assert not re.search(r"0x[0-9a-f]{6,}", text), f"an address helps nobody: {text}"
    return text


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open", [Store, open_store])
def test_an_unknown_scheme(open: Callable[[str], Any]) -> None:
    text = message(ConfigurationError, lambda: open("floppy://a").put(1))

    assert "floppy" in text
    assert all(scheme in text for scheme in SCHEMES)


@pytest.mark.parametrize("bad", ["/scratch/me", "shm", "", "file:/one-slash", "http//x", 7, None])
def test_what_is_no_url(bad: Any) -> None:
    text = message(ConfigurationError, lambda: Store(bad))

    assert repr(bad) in text
    assert "://" in text


def test_a_path_without_a_root() -> None:
    for bad in ("file://", "file://relative/path", "file://host/path"):
        text = message(ConfigurationError, lambda bad=bad: Store(bad).put(1))
        assert "file:///" in text


@pytest.mark.parametrize("options", [{"cache": "lots"}, {"inline_below": -1}, {"serializer": "json"}, {"name": "a/b"}])
def test_an_option_that_makes_no_sense(options: dict[str, Any]) -> None:
    text = message(ConfigurationError, lambda: Store("memory://", **options))

    assert str(next(iter(options.values()))) in text


def test_a_missing_extra_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setitem(registry._BUILT_IN["connectors"], "redis", ("no_such_package_here", "RedisConnector", "redis"))
    text = message(MissingDependency, lambda: Store("redis://localhost:6379/0"))

    assert "pip install 'proxyfab[redis]'" in text
    assert "redis://" in text


# -- places --------------------------------------------------------------------------------------------------------


def as_nobody(work: Callable[[], Any]) -> Any:
    """Root may write anywhere; a fork that is nobody may not."""

    def drop() -> Any:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return in_fork(drop)


def told(call: Callable[[], Any]) -> tuple[str, str]:
    try:
        return "no error", repr(call())
    except ProxyfabError as error:
        return type(error).__name__, str(error)


def test_an_unwritable_directory(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o500)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    kind, text = as_nobody(lambda: told(lambda: Store(f"file://{place}", inline_below=0).put([1])))

    assert kind == AccessDenied.__name__
    assert str(place) in text


def test_shared_memory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "sealed" / "root"))
    (tmp_path / "sealed").mkdir(mode=0o500)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    kind, text = as_nobody(lambda: told(lambda: Store("shm://", inline_below=0).put([1])))

    assert kind == AccessDenied.__name__
    assert "sealed" in text


@pytest.mark.parametrize("scheme", ["file", "shm"])
def test_a_full_directory(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "proxyfab-test", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is not allowed here: {done.stderr.strip()}")
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(disk / "shm"))
    url = f"file://{disk}/place" if scheme == "file" else "shm://"
    try:
        with Child(fill, url) as child:
            kind, text, kept = child.result()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

    assert kind == CapacityError.__name__
    assert url in text or str(disk) in text
    assert kept


def fill(talk: Any, url: str) -> tuple[str, str, bool]:
    store = Store(url)
    first = store.put(np.arange(100_000))
    kind, text = told(lambda: [store.put(np.ones(200_000)) for _ in range(10)])
    return kind, text, bool((store.get(first) == np.arange(100_000)).all())


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I was here first.")
    text = message(ConnectorError, lambda: Store(f"file://{tmp_path}/file", inline_below=0).put([1]))

    assert f"{tmp_path}/file" in text


def test_a_directory_of_somebody_elses(tmp_path: Path) -> None:
    """A directory full of a user's files is not taken over, and not one of them is touched, whatever is asked."""
    (tmp_path / "thesis.tex").write_text("Chapter 1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "~run1").mkdir()
    (tmp_path / "data" / "~run1" / "results.csv").write_text("1,2")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    for place in (tmp_path, tmp_path / "data"):
        with Store(f"file://{place}", inline_below=0) as store:
            told(lambda store=store: store.put([1]))
            told(store.clear)
            told(lambda store=store: store.connector.reap())

    assert {path: path.read_text() for path in before} == before


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_of_another_store(store: Store, tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}/other", inline_below=0) as other:
        key = other.put([1, 2])
        text = message(ProxyfabError, lambda: store.resolve(key))
        assert key.id in text
        assert store.url.partition("~")[0] in text or key.where in text
        message(ProxyfabError, lambda: store.get(key))
        other.clear()


def test_an_evicted_object(store: Store) -> None:
    proxy = store.proxy(list(range(100)))
    key = store.put("x")
    reference = pickle.dumps(store.ref("y" * 100))
    store.clear()
    for call in (lambda: len(proxy), lambda: resolve(proxy), lambda: store.resolve(key), pickle.loads(reference)):
        text = message(KeyNotFound, call)
        assert store.url in text
        assert "evicted" in text
    assert store.get(key, "default") == "default"


@pytest.mark.parametrize("bad", ["", "a\nb", " x", "x" * 300])
def test_a_key_that_is_none(store: Store, bad: str) -> None:
    text = message(ConfigurationError, lambda: store.put(1, key=bad))

    assert "200" in text


def test_a_wait_that_would_never_end(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="not nan"):
        store.connector.wait(store.reserve(), float("nan"))  # type: ignore[attr-defined]  # each of these can wait


def test_a_key_of_a_wrong_type(store: Store) -> None:
    for bad in (7, None, b"abc", ("a", "b")):
        with pytest.raises((ConfigurationError, TypeError)):
            store.get(bad)


# -- bytes ---------------------------------------------------------------------------------------------------------


def newest_file(top: Path, nbytes: int) -> Path:
    return next(path for path in sorted(top.rglob("*")) if path.is_file() and path.stat().st_size > nbytes)


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1],
        lambda raw: bytes(len(raw)),
        lambda raw: raw[:9000] + bytes([raw[9000] ^ 1]) + raw[9001:],
        lambda raw: b"<html>Login required</html>",
    ],
    ids=["half", "last byte gone", "zeros", "one bit", "a login page"],
)
def test_a_corrupt_file(tmp_path: Path, edit: Callable[[bytes], bytes]) -> None:
    with Store(f"file://{tmp_path}/place", name="kept", cache=0) as store:
        proxy = store.proxy(np.arange(10_000))
        path = newest_file(tmp_path / "place", 10_000)
        raw = edit(path.read_bytes())
        path.unlink()
        path.write_bytes(raw)

        text = message(IntegrityError, lambda: proxy.sum())

        assert str(tmp_path) in text or store.url in text, f"which object, and where? {text}"
        assert message(IntegrityError, lambda: resolve(proxy)) == text  # not sticky, and the same again
        assert store.put(1)


# -- objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [threading.Lock, socket.socket, lambda: (n for n in [1]), lambda: {"deep": [threading.Lock()]}]
)
def test_an_unpicklable_object(store: Store, make: Callable[[], Any]) -> None:
    obj = make()
    for call in (
        lambda: store.put(obj),
        lambda: store.proxy(obj),
        lambda: store.ref(obj),
        lambda: store.put_many([1, obj]),
    ):
        text = message(SerializationError, call)
        assert re.search(r"lock|socket|generator", text)
    if hasattr(obj, "close"):
        obj.close()
    assert store.get(store.put("still works")) == "still works"


class Stubborn:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("my own bug")


def test_an_object_whose_pickling_fails(store: Store) -> None:
    text = message(SerializationError, lambda: store.put(Stubborn()))

    assert "Stubborn" in text
    assert "my own bug" in text


def write_with_a_class_of_its_own(talk: Any, store: Store, directory: str) -> Any:
    sys.path.insert(0, directory)
    module = __import__("only_at_the_writer")
    return store.put(module.Frame(7)), store.proxy(module.Frame(8))


@pytest.mark.parametrize("scheme", ["shm", "file"])
def test_a_class_that_is_missing_at_the_reader(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "only_at_the_writer.py").write_text("class Frame:\n    def __init__(self, n):\n        self.n = n\n")
    with Store(f"file://{tmp_path}/place" if scheme == "file" else "shm://", inline_below=0) as store:
        with Child(write_with_a_class_of_its_own, store, str(tmp_path)) as child:
            key, proxy = child.result()
        for call in (lambda: store.get(key), lambda: proxy.n):
            text = message(SerializationError, call)
            assert "only_at_the_writer" in text
            assert re.search(r"install|import|path", text), f"what to do? {text}"
        assert store.exists(key)
        assert store.evict(key)
        store.clear()


def test_a_safe_store_says_what_it_refuses(url: str) -> None:
    with Store(url, serializer="safe", inline_below=0) as store:
        text = message(SerializationError, lambda: store.put(Stubborn()))
        assert "safe" in text
        assert store.get(store.put({"plain": [1, 2.0, "x", b"y", None]})) == {"plain": [1, 2.0, "x", b"y", None]}
        store.clear()


def test_a_broken_reference_is_no_code() -> None:
    """Half a pickled reference is pickle's error; a whole one with wrong fields is ours."""
    from proxyfab.ref import load

    for state in [("memory://x", "not a payload", 1, "", 0, 0), ("memory://x", ("a",), 1, "", 0, 0)]:
        with pytest.raises(ProxyfabError):
            load(*state)


def test_an_error_in_a_child_comes_back_whole(store: Store) -> None:
    if store.url.startswith("memory"):
        key = store.put([1])
        with (
            Child(get_it, store.url, key) as child,
            pytest.raises(ChildFailed, match="belongs to the memory of process|lives in another process"),
        ):
            child.result()


def get_it(talk: Any, url: str, key: Key) -> Any:
    return open_store(url).get(key)


def test_an_open_file_is_refused_wherever_it_is(tmp_path: Path) -> None:
    """A file belongs to its process; cloudpickle alone would send a buffer of its text that pretends to be it."""
    path = tmp_path / "notes.txt"
    path.write_text("one line")
    with Store("memory://", inline_below=0) as store, path.open() as file:
        for obj in (file, [file], lambda: file.read()):
            with pytest.raises(SerializationError, match="send its path"):
                store.put(obj)
