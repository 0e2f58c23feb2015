"""Tokens: references as text, from which nothing runs that the text chose."""

from __future__ import annotations

import sys
from base64 import urlsafe_b64encode

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab import Key, Ref, Store
from proxyfab.errors import ConfigurationError, ProxyfabError, SealError, SerializationError
from proxyfab.proxy import Kind


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")


@pytest.fixture
def store():
    with Store("memory://") as store:
        yield store


def token(*fields):
    return "pf1." + urlsafe_b64encode(msgpack.packb(list(fields))).rstrip(b"=").decode()


@pytest.mark.parametrize("obj", [b"small", b"x" * 10_000, "text"])
def test_a_token_names_the_same_object(store, obj):
    """Small ones travel inside it."""
    text = store.ref(obj).to_token()
    assert text.isascii()
    assert text.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert Ref.from_token(text).resolve() == obj
    assert Ref.from_token(Ref.from_token(text).to_token()).resolve() == obj


def test_nothing_unsealed_is_unpickled_unless_one_says_so(store):
    """Anybody may have written the token, and the store that it names."""
    for obj in (Key("pickled"), [Key("pickled")] * 2000):
        text = store.ref(obj).to_token()
        with pytest.raises(SerializationError, match="unpickle"):
            Ref.from_token(text).resolve()
        assert Ref.from_token(text, unpickle=True).resolve() == obj


@pytest.mark.parametrize("claim", ["s%65al=sign:lab", "%73eal=sign:lab", "cache=0&se%61l=sign:lab"])
def test_a_seal_that_is_only_claimed_unpickles_nothing(store, claim):
    """However the claim is quoted: what came inside is not sealed."""
    _, packed, *rest = store.ref(Key("pickled"))._state()
    text = token(
        f"memory://x#{claim}", "", "", list(packed), *[str(part) if n == 2 else part for n, part in enumerate(rest)]
    )
    with pytest.raises(SealError):
        Ref.from_token(text).resolve()


def test_a_sealed_token_is_its_writers(store):
    """So is what it refers to; another key, no key and a changed letter are refused."""
    text = store.ref(Key("pickled")).to_token(seal="encrypt:lab")
    assert Ref.from_token(text, seal="encrypt:lab").resolve() == Key("pickled")
    for wrong in (None, "sign:lab", "encrypt:other"):
        with pytest.raises(SealError):
            Ref.from_token(text, seal=wrong)
    with pytest.raises(SealError):
        Ref.from_token(store.ref(1).to_token(), seal="encrypt:lab")
    for place in range(4, len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(ProxyfabError):
            Ref.from_token(changed, seal="encrypt:lab")


def test_objects_of_a_sealed_store_are_unpickled_once_verified():
    """The token need not be sealed for that."""
    with Store("memory://", seal="sign:lab") as store:
        for obj in (Key("pickled"), [Key("pickled")] * 2000):
            assert Ref.from_token(store.ref(obj).to_token()).resolve() == obj


def test_a_token_imports_nothing(store):
    """The type's name is a hint; one whose module is not here yet is dropped, so that isinstance imports nothing."""
    ref = Ref("memory://x", Key("k"), kind=Kind("antigravity:Anything", 1))
    again = Ref.from_token(ref.to_token())
    assert again.kind is None
    assert "antigravity" not in sys.modules
    assert Ref.from_token(store.ref(b"x" * 9999).to_token()).kind.name == "builtins:bytes"


@pytest.mark.parametrize(
    "url",
    [
        "subprocess.Popen://x",
        "os:system://x",
        "proxyfab.connectors.memory:MemoryConnector://",
        "builtins.eval+memory://x",
        "../../x://",
        "memory://x#store=os.system",
        "memory://x#seal=os.system:lab",
        "memory://x#seal=sign:../lab",
        "memory://x#serializer=cloudpickle",
        "nested+memory://x",
        "javascript:alert(1)",
        "",
        "memory",
    ],
)
def test_a_name_is_looked_up_and_never_imported(url):
    """Schemes, layers, serializers and seals are short names in tables."""
    before = set(sys.modules)
    with pytest.raises(ProxyfabError):
        Ref.from_token(token(url, "k", "", None, 1, "", "0", 0), unpickle=True).resolve()
    assert not {"subprocess.Popen", "antigravity"} & (set(sys.modules) - before)


@pytest.mark.parametrize("id", ["../x", "/etc/passwd", "a\0b", "k" * 10_000, "", " k", "a@b", "k\n", "\u202ek"])
def test_odd_keys(tmp_path, id):
    """Refused, or a name like any other inside the store's own directory."""
    (tmp_path / "x").write_bytes(b"outside")
    text = token(f"file://{tmp_path}/store?ns=run", id, "", None, 1, "", "0", 0)
    with pytest.raises(ProxyfabError):
        Ref.from_token(text).resolve()
    assert {path.name for path in tmp_path.iterdir()} <= {"x", "store"}


GOOD = ["memory://x", "k", "", None, 1, "builtins:bytes", "0", 0]


@pytest.mark.parametrize("place", range(len(GOOD)))
@pytest.mark.parametrize("wrong", [None, 5, -1, 2**63, "x" * 100_000, [], [1], {}, b"\xff", True, 1.5, "\0", "\u2028"])
def test_odd_fields(place, wrong):
    """Only errors of the tree come out."""
    fields = [*GOOD]
    fields[place] = wrong
    try:
        Ref.from_token(token(*fields)).resolve()
    except ProxyfabError:
        pass


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="pf1.ABCabc-_=012").map("pf1.".__add__),
        st.binary().map(lambda data: "pf1." + urlsafe_b64encode(data).decode()),
    )
)
def test_any_text(text):
    """Only errors of the tree come out."""
    for seal in (None, "encrypt:lab"):
        with pytest.raises(ProxyfabError):
            Ref.from_token(text, seal=seal)


def test_a_token_is_short(store):
    """Larger objects are stored."""
    with Store("memory://", inline_below="1MB") as store, pytest.raises(ConfigurationError, match="too long"):
        store.ref(b"x" * 100_000).to_token()
