"""No secret leaves its process: a canary in every place that holds one, and a look at everything that comes out."""

from __future__ import annotations

import base64
import copy
import io
import logging
import pickle
import traceback

import cloudpickle
import pytest

from proxyfab import Ref, Store, trace
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.seal import Seal
from proxyfab.serialize import dumps
from proxyfab.wire.payload import encode

CANARY = b"canary-canary-canary-canary-0123"
FORMS = {
    CANARY,
    CANARY[:16],
    base64.b64encode(CANARY),
    base64.b64encode(CANARY)[:20],
    CANARY.hex().encode(),
    repr(CANARY).encode(),
}


def clean(what: str, data: bytes | str) -> None:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    assert not [form for form in FORMS if form in raw], f"{what} holds the secret: {raw[:2000]!r}"


@pytest.fixture(params=["environment", "file"])
def ring(request, tmp_path, monkeypatch):
    text = base64.b64encode(CANARY).decode()
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    for kind, prefix in (("symmetric", "KEY"), ("sign", "SIGN")):
        if request.param == "file":
            Keyring().add(kind, "lab", text)
        else:
            monkeypatch.setenv(f"PROXYFAB_{prefix}_LAB", text)
    return Keyring()


@pytest.fixture
def seen():
    """Everything that is logged or traced."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    stop = trace.listen(
        lambda span: out.write(repr([getattr(span, name) for name in dir(span) if name[0] != "_"])) or None
    )
    yield out
    stop()
    root.removeHandler(handler)
    root.setLevel(level)


def story(error: BaseException) -> str:
    """All that a traceback could show, with the variables of each frame."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format()) + repr(error) + repr(error.args) + str(pickle.dumps(error))


@pytest.mark.parametrize("mode", ["encrypt", "encrypt-chacha20", "sign", "ed25519"])
def test_nothing_that_comes_out_holds_a_key(ring, seen, tmp_path, mode):
    """Pickles, tokens, URLs, texts, logs, events, bytes that were stored, and every error's whole story."""
    with Store(f"file://{tmp_path}/place", seal=f"{mode}:lab", cache=0) as store:
        small, large = store.ref([1]), store.ref(b"x" * 10_000)
        for thing in (store, small, large, small.proxy(), store.connector, Seal(mode, "lab"), large.key):
            for dump in (pickle.dumps, cloudpickle.dumps, lambda thing: pickle.dumps(copy.copy(thing), 0)):
                clean(f"a pickle of {type(thing).__name__}", dump(thing))
            clean(f"repr of {type(thing).__name__}", repr(thing) + str(thing) + f"{thing}")
        clean("tokens", small.to_token() + large.to_token() + large.to_token(seal=f"{mode}:lab"))
        clean("a URL", store.url)
        clean("variables", repr(vars(store._seal)) + repr(vars(store.connector)))
        for path in (tmp_path / "place").rglob("*"):
            if path.is_file():
                clean("a stored file", path.read_bytes())
        errors = list(_provoked(store, ring, mode))
        assert len(errors) >= 6
        for error in errors:
            clean(f"the story of {error!r}", story(error))
    clean("what was logged and traced", seen.getvalue())


_TEXT = base64.b64encode(CANARY).decode()


def _provoked(store, ring, mode):
    """Errors from every place that has a key at hand."""
    connector, key = store.connector, store.put([1])
    sealed = bytearray(connector.child.get(key).tobytes())
    sealed[-1] ^= 1
    token = store.ref([1]).to_token(seal=f"{mode}:lab")

    def raising(path):
        path.write_text(path.read_text().replace("kind", "wrong")) if path.exists() else None
        return ring.symmetric("lab") if path.suffix == ".symmetric" else ring.signing("lab")

    calls = [
        lambda: connector.child.put(Frames([sealed]), key=key, replace=True) and store.get(key),
        lambda: connector.child.put(encode(dumps([1]), checksum=True), key=key, replace=True) and store.get(key),
        lambda: Seal(mode, "other").seal(Frames([b"x"]), "r", "k"),
        lambda: Ref.from_token(token[:-3] + "AAA", seal=f"{mode}:lab"),
        lambda: Ref.from_token(token),
        lambda: pickle.dumps(Seal(mode, "lab")._symmetric()),
        lambda: ring.add("symmetric", "again", _TEXT) and ring.add("symmetric", "again", _TEXT),
        lambda: ring.add("symmetric", "more", base64.b64encode(CANARY + b"more").decode()),
        lambda: ring.add(
            "sign", "more", "proxyfab-key-1\nkind: symmetric\nsecret: " + base64.b64encode(CANARY).decode()
        ),
        lambda: ring.add("curve", "more", base64.b64encode(CANARY).decode()),
        lambda: raising(ring.directory / "lab.symmetric"),
        lambda: store.put([1], key=Key("taken")) and store.put([1], key=Key("taken")),
    ]
    for call in calls:
        try:
            call()
        except ProxyfabError as error:
            yield error
