"""Names of places as data: URLs, sizes and names, both ways, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.spec import CACHE, ConnectorSpec, StoreSpec, check_name, nbytes, read_secret

TEXT = strategies.text(strategies.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
WORDS = strategies.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
SPECS = strategies.builds(
    ConnectorSpec,
    scheme=WORDS,
    host=TEXT.filter(lambda host: "/" not in host),
    path=TEXT.map(lambda text: f"/{text}" if text else ""),
    options=strategies.lists(strategies.tuples(WORDS, TEXT), max_size=3).map(tuple),
    layers=strategies.lists(WORDS, max_size=2, unique=True).map(tuple),
)


@given(SPECS)
def test_a_connectors_url_goes_both_ways(spec: ConnectorSpec) -> None:
    assert ConnectorSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "shm://~3f9a2c1e",
        "file:///scratch/me?ns=run7",
        "file:///with%20space/%C3%A9",
        "redis://user:word@host:6379/0",
        "zmq://[::1]:5555",
        "lz4+zstd+redis://host",
        "file:///p?ns=~3f9a2c1e",
        "globus://a,b",
    ],
)
def test_usual_urls_stay_as_they_are(url: str) -> None:
    assert str(ConnectorSpec.parse(url)) == url


@pytest.mark.parametrize(
    "url", ["", "shm", "shm:", "shm:/", "://x", "SHM://", "1a://", "shm://a#b", "shm ://", "shm://\n#"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        ConnectorSpec.parse(url)


def test_options_are_checked_by_who_takes_them() -> None:
    spec = ConnectorSpec.parse("file:///p?ns=a&sync=0&empty=")

    assert spec.take("ns", "sync", "empty") == {"ns": "a", "sync": "0", "empty": ""}
    with pytest.raises(ConfigurationError, match="'empty'"):
        spec.take("ns", "sync")
    with pytest.raises(ConfigurationError, match="none"):
        ConnectorSpec.parse("memory://?a=1").take()
    with pytest.raises(ConfigurationError, match="lz4"):
        ConnectorSpec.parse("lz4+memory://").take()


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ns"):
        ConnectorSpec.parse("file:///p?ns=a&ns=b").take("ns")


STORES = strategies.builds(
    StoreSpec,
    connector=strategies.sampled_from(["shm://~3f9a", "file:///p?ns=a%23b", "memory://x"]),
    cache=strategies.integers(0, 2**40),
    inline_below=strategies.integers(0, 2**20),
    serializer=strategies.sampled_from(["default", "safe"]),
    seal=strategies.sampled_from(["", "encrypt:lab-2026"]),
)


@given(STORES)
def test_a_stores_url_goes_both_ways(spec: StoreSpec) -> None:
    assert StoreSpec.parse(str(spec)) == spec


def test_defaults_are_not_written() -> None:
    assert str(StoreSpec("shm://a")) == "shm://a"
    assert str(StoreSpec("shm://a", inline_below=0, serializer="safe")) == "shm://a#inline=0&serializer=safe"
    assert StoreSpec.parse("shm://a#cache=1MiB") == StoreSpec("shm://a", cache=2**20)


@pytest.mark.parametrize("url", ["shm://a#nonsense=1", "shm://a#cache=much", "shm://a#inline=-1", "shm://a#inline"])
def test_a_stores_options_are_checked(url: str) -> None:
    with pytest.raises(ConfigurationError):
        StoreSpec.parse(url)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (4096, 4096),
        (0, 0),
        ("0", 0),
        ("4096", 4096),
        ("4 KiB", 4096),
        ("4kib", 4096),
        ("100 KB", 100_000),
        ("100 kB", 100_000),
        ("1.5GiB", 3 * 2**29),
        ("2T", 2 * 10**12),
        ("10 b", 10),
        (" 7 MB ", 7_000_000),
        ("256 MiB", CACHE),
        (1e6, 1_000_000),
    ],
)
def test_sizes_as_people_write_them(text: int | str, number: int) -> None:
    assert nbytes(text) == number


@pytest.mark.parametrize(
    "text", ["", "much", "-1", "1 XB", "1 iB", "1e3", "4 KiB extra", "1.5.5", "4\nKiB x", "٤", -1, "ib", None]
)
def test_what_is_no_size_is_refused(text: int | str) -> None:
    with pytest.raises(ConfigurationError):
        nbytes(text)


@pytest.mark.parametrize("name", ["a", "exp1", "A.b_c-d", "0", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "~a", "a b", "a\n", "x" * 65, "é", "a\x00"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_name(name)


@pytest.mark.parametrize(
    "bad", ["file:///a\0b", "file:///a%00b", "redis://h\udcff/0", "shm://a#seal=\udc80", "shm://a?b=\0"]
)
def test_a_url_holds_no_zero_byte_and_no_half_characters(bad):
    with pytest.raises(ConfigurationError):
        StoreSpec.parse(bad)
        ConnectorSpec.parse(bad)


def test_a_size_beyond_all_numbers():
    with pytest.raises(ConfigurationError):
        nbytes("9" * 400)


@pytest.mark.parametrize("url", ["shm://a%2Fb", "retry+lz4+retry+shm://", "routed://?to=" * 40 + "shm://"])
def test_what_no_place_needs(url):
    """A path in a host, a layer twice, URLs in URLs without end: from elsewhere they would cost memory and stack."""
    with pytest.raises(ConfigurationError, match="makes no sense"):
        ConnectorSpec.parse(url)


def test_where_a_secret_is_and_what_is_no_secret(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SET_HERE", "hush")
    (tmp_path / "kept").write_text("hush\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert [read_secret(text, "x://y") for text in ("env:SET_HERE", f"file:{tmp_path}/kept", "")] == [
        "hush",
        "hush",
        None,
    ]
    for text, says in (("env:NOT_SET", "not there"), (f"file:{tmp_path}", "not there"), ("file:bytes", "no text")):
        text = text.replace("file:bytes", f"file:{tmp_path}/bytes")
        with pytest.raises(AccessDenied, match=f"The secret for x://y should be in {text}, which is {says}"):
            read_secret(text, "x://y")
