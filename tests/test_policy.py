"""What a reference from elsewhere may open is this process's own rule, and no reference lowers it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from proxyfab import Store, open_store, policy
from proxyfab.errors import AccessDenied, ConfigurationError, SealError, SerializationError
from proxyfab.keys import Key
from proxyfab.ref import Ref, load


@pytest.fixture(autouse=True)
def lifted():
    yield
    policy.lift()


def received(url: str, key: str = "k") -> Ref:
    return pickle.loads(pickle.dumps(Ref(url, Key(key))))


def refused(url: str) -> str:
    with pytest.raises(AccessDenied) as caught:
        _ = received(url).store
    return str(caught.value)


def test_only_the_schemes_that_are_allowed(tmp_path):
    """The message names the rule; what this process opens itself is free."""
    policy.restrict(schemes={"shm"})
    assert "schemes=" in refused(f"file://{tmp_path}")
    assert received("shm://some").store.connector.scheme == "shm"
    with Store(f"file://{tmp_path}") as own:
        assert received(own.url).store is own


@pytest.mark.parametrize(
    "url",
    [
        "bounded://?limit=1MB&slow=file://{there}",
        "routed://?to=shm://%3Bbelow=1MiB&to=file://{there}",
        "tiers://?to=memory://%3Blimit=1MB&to=file://{there}",
        "routed://?to=bounded://%3Flimit=1MB%26slow=file://{there}",
        "retry+file://{there}",
        "retry+bounded://?limit=1MB&slow=retry%2Bfile://{there}",
    ],
)
def test_children_of_a_url_are_asked_for_by_a_reference_too(tmp_path, url):
    """A place inside another place's URL is no way around; own code may open it."""
    policy.restrict(schemes={"bounded", "routed", "tiers", "memory", "shm"})
    url = url.format(there=tmp_path / "there")
    with Store(url):
        pass
    assert "'file'" in refused(url)
    assert not (tmp_path / "there").exists()


def test_a_directory_is_where_its_links_lead(tmp_path):
    """Prefixes, parents and links."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in-too").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in-too")
    (tmp_path / "door").symlink_to(tmp_path / "in")
    policy.restrict(directories=[tmp_path / "door"])
    for path in ("in-too", "in/link", "in/../in-too", "in/%2e%2e/in-too", "", "in/link/../../in-too"):
        assert "directories=" in refused(f"file://{tmp_path}/{path}")
    for path in ("in", "in/deeper", "door/deeper", "in//deeper"):
        assert received(f"file://{tmp_path}/{path}").store.connector.scheme == "file"


@pytest.mark.parametrize(
    "url",
    [
        "redis://evil.org/0",
        "redis://lab.org.evil.org/0",
        "redis://evil.org:6379/0?ns=a.lab.org",
        "redis://a.lab.org@evil.org/0",
        "redis://a.lab.org%40evil.org/0",
        "redis://a.lab.org,evil.org/0?cluster=1",
        "redis://10.2.0.1/0",
        "redis://[::1]:6379/0",
        "redis://A.LAB.ORG.evil.org/0",
    ],
)
def test_a_host_is_what_is_connected_to(url):
    """Neither a prefix, nor a user's name, nor one of several."""
    policy.restrict(hosts=["*.lab.org", "10.1.0.0/16", "node7:6379"])
    with pytest.raises(AccessDenied, match="hosts="):
        policy.check_connector(url)


def test_a_link_and_a_way_back_up_is_compared_as_it_is_opened(tmp_path):
    """`link/..` is one directory to the kernel, and another to who cleans the path first."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "door").symlink_to(tmp_path / "in" / "deep")
    policy.restrict(directories=[tmp_path / "in"])
    assert "directories=" in refused(f"file://{tmp_path}/door/../out")


def test_a_socket_is_not_hidden_in_a_host(tmp_path):
    """However it is quoted."""
    policy.restrict(directories=[tmp_path], hosts=["*.lab.org"])
    with pytest.raises(ConfigurationError, match="host"):
        _ = received("zmq://%2Ftmp%2Fevil.lab.org").store


def test_files_are_files_whatever_their_option_is_called(tmp_path):
    """The key that a client shows is read, too."""
    policy.restrict(directories=[tmp_path])
    assert "directories=" in refused("rediss://host/0?key=/etc/ssl/private/some.key")


@pytest.mark.parametrize("rule", ["[::1]", "[::1]:6379", "::1"])
def test_an_address_in_brackets_is_one_address(rule):
    """And not a choice of letters."""
    policy.restrict(hosts=[rule])
    policy.check_connector("redis://[::1]:6379/0")
    for other in ("1", ":", "[::2]:6379"):
        with pytest.raises(AccessDenied, match="hosts="):
            policy.check_connector(f"redis://{other}/0")


@pytest.mark.parametrize("kind", ["KEY", "SIGN", "CURVE"])
def test_no_key_is_a_password(kind):
    """A received URL would have it sent to the host it names; no policy allows that."""
    policy.restrict(secrets=["env:*"])
    for url in (f"redis://evil.org/0?password=env:PROXYFAB_{kind}_LAB", f"x://?password=env:PROXYFAB_{kind}_LAB"):
        with pytest.raises(AccessDenied, match="secrets="):
            policy.check_connector(url)


def test_hosts_that_are_allowed():
    """By name, with a port, by network, in either case."""
    policy.restrict(hosts=["*.lab.org", "10.1.0.0/16", "node7:6379", "::1"])
    for host in ("a.lab.org", "A.Lab.Org:6379", "10.1.2.3:6379", "node7:6379", "[::1]:6379", "a.lab.org:1,b.lab.org:2"):
        policy.check_connector(f"redis://{host}/0")
    for address in ("node7:6380", "10.2.0.1:5555", "/tmp/x"):
        if address.startswith("/"):
            policy.check_address("zmq", address)  # no rule about directories
        else:
            with pytest.raises(AccessDenied):
                policy.check_address("zmq", address)


def test_sockets_lie_in_directories(tmp_path):
    """A path instead of a host."""
    policy.restrict(directories=[tmp_path], hosts=["localhost"])
    policy.check_connector(f"redis://{tmp_path}/socket")
    policy.check_address("zmq", f"{tmp_path}/socket")
    with pytest.raises(AccessDenied, match="directories="):
        policy.check_connector("redis:///run/redis.sock")
    with pytest.raises(AccessDenied, match="directories="):
        policy.check_address("zmq", f"{tmp_path}/../other")


@pytest.mark.parametrize(
    "password",
    ["env:AWS_SECRET_ACCESS_KEY", "file:/etc/shadow", "file:///etc/shadow", "file:/run/secrets/../../etc/shadow"],
)
def test_a_reference_does_not_choose_which_secret_is_sent_where(password):
    """Also without any policy; own code may."""
    url = f"redis://evil.org/0?password={password}"
    with pytest.raises(AccessDenied, match="secrets="), policy.received():
        policy.check_opening(url)
    policy.check_opening(url)
    with policy.received():
        policy.check_opening("redis://host/0?password=env:PROXYFAB_REDIS_PASSWORD")
        policy.restrict(secrets=["env:AWS_*", "file:/etc/shadow"])
        if ".." not in password:
            policy.check_opening(url)


def test_only_sealed_stores_and_only_these_keys(monkeypatch):
    """Also where the store is open here already, and where the object travels inside the reference."""
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    with Store("memory://") as plain, Store("memory://", seal="sign:lab") as sealed:
        inside, inside_sealed = (pickle.dumps(store.ref([1])) for store in (plain, sealed))
        stored = pickle.dumps(plain.ref_from_key(plain.put([1])))
        assert pickle.loads(inside).resolve() == pickle.loads(stored).resolve() == [1]
        policy.restrict(require_seal=["lab"])
        for data in (inside, stored):
            with pytest.raises(AccessDenied, match="require_seal="):
                pickle.loads(data).resolve()
        assert pickle.loads(inside_sealed).resolve() == [1]
        assert plain.ref([1]).resolve() == [1]
        policy.restrict(require_seal=["other"])
        with pytest.raises(AccessDenied, match="'lab'"):
            pickle.loads(inside_sealed).resolve()
        with pytest.raises(AccessDenied):
            pickle.loads(pickle.dumps(plain))


def test_a_url_that_claims_a_seal_does_not_make_the_object_sealed(monkeypatch):
    """The text of the URL and the bytes inside have to fit, however the URL is written."""
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    with Store("memory://") as plain:
        _, packed, *rest = plain.ref([1])._state()
        policy.restrict(require_seal=True)
        for claim in ("seal=sign:lab", "se%61l=sign:lab"):
            with pytest.raises(SealError):
                load(f"memory://x#{claim}", packed, *rest).resolve()


def test_serializers():
    """Only stores that never unpickle."""
    policy.restrict(serializers={"safe"})
    assert "serializers=" in refused("memory://x")
    assert received("memory://x#serializer=safe").store.url.endswith("safe")


@pytest.mark.parametrize("claim", ["serializer=s%61fe", "%73erializer=safe", "serializer=default&serializer=safe"])
def test_a_serializer_is_what_it_says_however_it_is_written(claim):
    """A claim that a policy believes is one that the reader keeps."""
    with Store("memory://written") as store:
        key = store.put(Key("pickled"))
        policy.restrict(serializers={"safe"})
        reference = pickle.loads(pickle.dumps(Ref(f"memory://written#{claim}", key)))
        with pytest.raises(SerializationError, match="unpickle"):
            reference.resolve()
        store.clear()


def test_nothing_unsealed_from_beyond_this_machine_is_unpickled(tmp_path, monkeypatch):
    """A strict mode for this process's own stores, too."""
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    with Store(f"file://{tmp_path}", name="w") as writer, Store(f"file://{tmp_path}", name="s", seal="sign:lab") as s:
        key, sealed = writer.put(Key("pickled")), s.put(Key("pickled"))
        plain = writer.put(b"bytes")
    policy.restrict(unsealed_pickle=False)
    with Store(f"file://{tmp_path}", name="w") as store, Store(f"file://{tmp_path}", name="s", seal="sign:lab") as s:
        with pytest.raises(SerializationError, match="unpickle"):
            store.get(key)
        with pytest.raises(SerializationError, match="unpickle"):
            store.ref_from_key(key).resolve()
        assert store.get(plain) == b"bytes"
        assert s.get(sealed) == s.ref_from_key(sealed).resolve() == Key("pickled")
    with Store() as local:
        assert local.get(local.put(Key("pickled"))) == Key("pickled")


def test_policies_add_up():
    """A further one only narrows."""
    policy.restrict(schemes={"shm"})
    policy.restrict(schemes={"shm", "file"})
    refused("file:///tmp")


def test_a_policy_of_the_environment(tmp_path):
    """For every process that inherits it; what it cannot read stops it."""
    path = tmp_path / "policy.toml"
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])).store"
    data = pickle.dumps(Ref(f"file://{tmp_path}", Key("k"))).hex()

    def run():
        environment = {**os.environ, "PROXYFAB_POLICY": str(path)}
        done = subprocess.run(
            [sys.executable, "-c", code, data], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stderr.strip().splitlines()[-1:] or [""]

    path.write_text('schemes = ["shm"]\nhosts = ["localhost"]\n')
    assert "AccessDenied" in run()[0]
    path.write_text('schemes = ["file"]\n')
    assert run() == [""]
    for wrong in (
        'scheme = ["file"]',
        "schemes = 5",
        'schemes = "file"',
        "not toml",
        "require_seal = 'lab'",
        'unsealed_pickle = "false"',
        "hosts = [1]",
    ):
        path.write_text(wrong)
        assert "ConfigurationError" in run()[0]


def test_open_store_is_own_code(tmp_path):
    """A URL that this process's code wrote down itself."""
    policy.restrict(schemes=set())
    assert open_store(f"file://{tmp_path}").connector.scheme == "file"
