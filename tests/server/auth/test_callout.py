"""Who may enter, said by the service to a real nats-server: passwords, tokens, rights, refusals, and what ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.nats.place import Place
from proxyfab.cli.main import main
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, IntegrityError
from proxyfab.events.model import Record, Topic
from proxyfab.events.people import People
from proxyfab.events.topology_text import accounts, lines
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.server.auth.callout import Callout, Decision, Service
from proxyfab.server.auth.claims import ACCOUNT, SERVER, Signer, key_bytes, public_key, read
from proxyfab.server.auth.identity import Book, hashed, register_verifier
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import until

SIGNER = Signer(bytes(range(32)))
PROVIDER = Ed25519PrivateKey.from_private_bytes(bytes(32))
REFUSED = "authentication error"
WHO = """
namespace = "lab"

[callout]
issuer = "{issuer}"
password = "env:CALLOUT"
patience = 4.0

[principals.operator]
password = "env:OPERATOR"
grants = {{ "*" = ["admin", "publish"] }}

[principals.camera]
password = "{camera}"
grants = {{ "site.frames" = ["publish"] }}

[principals.stranger]
password = "env:STRANGER"
account = "elsewhere"
grants = {{ "*" = ["admin", "publish", "subscribe"] }}

[principals."viewer@lab.example"]
tokens = "lab"
grants = {{ "site.frames" = ["subscribe"] }}

[principals.badge]
tokens = "door"
grants = {{ "site.frames" = ["subscribe"] }}

[tokens.lab]
issuer = "https://login.lab.example"
audience = "proxyfab"
keys = "{keys}"
claim = "email"

[tokens.door]
verifier = "door"
"""


def token(**claims: Any) -> str:
    """One of the provider's."""
    said = {
        "iss": "https://login.lab.example",
        "aud": "proxyfab",
        "email": "viewer@lab.example",
        "exp": time.time() + 60,
        **claims,
    }
    return jwt.encode(said, PROVIDER, "EdDSA", headers={"kid": "one"})


def door(said: str) -> tuple[str, float]:
    """A verifier of the site's own."""
    if said != "open sesame":
        raise AccessDenied("not the word")
    return "badge", time.time() + 60


@contextmanager
def serving(server: NatsServer, book: Book, told: list[Decision | str], life: float = 3600.0) -> Iterator[None]:
    """The service, in a thread."""
    loop = asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()
    place = Place.parse(f"nats://127.0.0.1:{server.port}?user=callout&password=env:CALLOUT")
    service = Service(place, Callout(SIGNER, book, life), told.append)
    thread = threading.Thread(target=lambda: loop.run_until_complete(service.run(ready.set, stop)))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(scope="module")
def secrets() -> Iterator[None]:
    """Where the service and clients look."""
    words = {"CALLOUT": "c-word", "OPERATOR": "o-word", "STRANGER": "s-word", "CAMERA": "k-word"}
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    register_verifier("door", door)
    yield
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, secrets: None) -> Path:
    directory = tmp_path_factory.mktemp("people")
    shown = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(PROVIDER.public_key())) | {"kid": "one", "alg": "EdDSA"}
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"keys": [shown]}))
    path = directory / "people.toml"
    path.write_text(WHO.format(issuer=SIGNER.public, camera=hashed("k-word"), keys=keys))
    return path


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[NatsServer]:
    with NatsServer(lines(accounts(People.parse(file.read_text())))) as server:
        yield server


@pytest.fixture(scope="module")
def told(server: NatsServer, file: Path) -> Iterator[list[Decision | str]]:
    """What the service says; it runs for the module."""
    found: list[Decision | str] = []
    with serving(server, Book(str(file), found.append), found):
        with enter(server, user="operator", inbox="operator", password="env:OPERATOR") as operator:
            operator.ensure(Topic("site.frames", partitions=2))
            operator.ensure(Topic("others"))
        yield found


def enter(server: NatsServer, *, inbox: str, **options: str) -> NatsBroker:
    """A broker that enters as somebody."""
    said = "&".join([f"{name}={value}" for name, value in options.items()])
    return NatsBroker.from_url(f"nats://127.0.0.1:{server.port}?ns=lab&inbox=_INBOX.{inbox}&{said}")


def refusals(told: list[Decision | str]) -> list[str]:
    return [each.why for each in told if isinstance(each, Decision) and each.why]


Opened = Callable[..., NatsBroker]


@pytest.fixture
def opened(server: NatsServer, told: list[Decision | str]) -> Iterator[Opened]:
    made: list[NatsBroker] = []

    def open_(**options: str) -> NatsBroker:
        made.append(enter(server, **options))
        return made[-1]

    yield open_
    for broker in made:
        broker.close()


def test_each_may_what_was_granted_and_nothing_else(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, told: list[Decision | str]
) -> None:
    camera = opened(user="camera", inbox="camera", password="env:CAMERA")
    with Producer(camera, "site.frames", name="cam") as producer:
        for number in range(10):
            producer.send(number)
        producer.end()
    monkeypatch.setenv("WORD", token())
    viewer = opened(inbox="viewer_lab_example", token="env:WORD")
    with Consumer(viewer, "site.frames", group="g") as consumer:
        assert sorted(consumer.objects()) == list(range(10))

    for refused in (
        lambda: camera.publish("others", [Record(b"x")]),
        lambda: camera.ensure(Topic("mine")),
        lambda: camera.subscribe("site.frames", group=None).fetch(1, 2),
        lambda: viewer.publish("site.frames", [Record(b"x")]),
        lambda: viewer.delete("site.frames"),
    ):
        with pytest.raises(AccessDenied):
            refused()
    entered = {each.principal for each in told if isinstance(each, Decision)}
    assert {"camera", "viewer@lab.example", "operator"} <= entered


def test_an_account_sees_nothing_of_another(opened: Opened) -> None:
    stranger = opened(user="stranger", inbox="stranger", password="env:STRANGER")
    assert stranger.topics() == []
    stranger.ensure(Topic("others"))
    stranger.publish("others", [Record(b"mine")])
    operator = opened(user="operator", inbox="operator", password="env:OPERATOR")
    assert operator.describe("others").records == 0


@pytest.mark.parametrize(
    ("user", "said", "why"),
    [
        ("camera", {"password": "env:WRONG"}, "camera: wrong password"),
        ("operator", {"password": "env:WRONG"}, "operator: wrong password"),
        ("nobody", {"password": "env:WRONG"}, "nobody: no such user"),
        ("viewer@lab.example", {"password": "env:WRONG"}, "no such user with a password"),
        ("", {"token": "env:WRONG"}, "door: not the word"),
        ("", {"token": "env:OTHERS"}, "Audience"),
        ("", {"token": "env:ENDED"}, "expired"),
        ("", {"token": "env:FORGED"}, "Signature verification failed"),
        ("", {"token": "env:STRANGE"}, "there is no such principal"),
        ("", {"token": "env:CLIMBING"}, "this principal enters otherwise"),
        ("", {"token": "env:BADGE"}, "this principal enters otherwise"),
        ("", {}, "neither a user nor a token"),
    ],
)
def test_a_refusal_is_clear_to_both(
    opened: Opened,
    told: list[Decision | str],
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    said: dict[str, str],
    why: str,
) -> None:
    monkeypatch.setenv("WRONG", "wrong")
    monkeypatch.setenv("OTHERS", token(aud="others"))
    monkeypatch.setenv("ENDED", token(exp=time.time() - 100))
    monkeypatch.setenv("FORGED", token()[:-20] + "A" * 20)
    monkeypatch.setenv("STRANGE", token(email="x@lab.example"))
    monkeypatch.setenv("CLIMBING", token(email="operator"))
    monkeypatch.setenv("BADGE", token(email="badge"))
    before = len(told)
    broker = opened(inbox="x", **({"user": user} if user else {}), **said)
    started = time.monotonic()
    with pytest.raises(AccessDenied, match="Authorization Violation"):
        broker.topics()
    assert time.monotonic() - started < 5
    assert until(lambda: any(why in each for each in refusals(told[before:]))), refusals(told[before:])
    for secret in ("wrong", "c-word", "o-word"):
        assert not any(f"'{secret}'" in str(each) for each in told)


def test_a_verifier_of_the_site(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESAME", "open sesame")
    assert opened(inbox="badge", token="env:SESAME").describe("site.frames").topic.partitions == 2


def test_nobody_else_answers_servers(opened: Opened, server: NatsServer) -> None:
    """Neither can a principal ask on a server's behalf, nor listen to what it is asked."""
    operator = opened(user="operator", inbox="operator", password="env:OPERATOR")
    operator.topics()

    async def try_() -> list[str]:
        import nats

        heard: list[str] = []

        async def complain(error: Exception) -> None:
            heard.append(str(error))

        client = await nats.connect(
            f"nats://127.0.0.1:{server.port}",
            user="operator",
            password=os.environ["OPERATOR"],
            error_cb=complain,
            inbox_prefix="_INBOX.operator",
        )
        await client.subscribe("$SYS.REQ.USER.AUTH")
        await client.publish("$SYS.REQ.USER.AUTH", b"x")
        await client.flush()
        ends = time.monotonic() + 10
        while len(heard) < 2 and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        await client.close()
        return heard

    heard = asyncio.run(try_())
    assert len(heard) == 2 and all("permissions violation" in each for each in heard)


def test_who_is_taken_out_of_the_file_does_not_come_in_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even on a connection that it has: it is asked again when its time is over. Others notice nothing."""
    path = tmp_path / "people.toml"
    path.write_text(file.read_text())
    told: list[Decision | str] = []
    with (
        NatsServer(lines(accounts(People.parse(path.read_text())))) as server,
        serving(server, Book(str(path), told.append), told, life=1.0),
        enter(server, user="operator", inbox="operator", password="env:OPERATOR") as operator,
        enter(server, user="camera", inbox="camera", password="env:CAMERA") as camera,
    ):
        operator.ensure(Topic("site.frames"))
        camera.publish("site.frames", [Record(b"1")])

        def again() -> bool:
            camera.publish("site.frames", [Record(b"2", "two")])
            return sum(isinstance(each, Decision) and each.principal == "camera" for each in told) >= 2

        assert until(again, 20), "it was not asked again"
        path.write_text("nonsense")
        assert operator.describe("site.frames").records == 2
        path.write_text(file.read_text().replace("[principals.camera]", "[principals.other]"))

        def out() -> bool:
            try:
                camera.publish("site.frames", [Record(b"3")], timeout=2)
            except AccessDenied:
                return True
            return False

        assert until(out, 20)
        assert operator.describe("site.frames").records >= 2
        assert "camera: no such user with a password" in refusals(told)


def test_a_file_that_is_no_text_any_more_is_told_and_the_one_before_counts(file: Path, tmp_path: Path) -> None:
    told: list[str] = []
    spoilt = tmp_path / file.name
    spoilt.write_bytes(file.read_bytes())
    book = Book(str(spoilt), told.append)
    before = book()
    spoilt.write_bytes(file.read_bytes() + "# f\xfcr alle".encode("latin-1"))
    assert book() == before
    assert "was not taken over" in told[0] and "'utf-8'" in told[0]


def test_who_was_in_waits_for_a_service_that_comes_back(file: Path) -> None:
    told: list[Decision | str] = []
    book = Book(str(file), told.append)
    with NatsServer(lines(accounts(People.parse(file.read_text())))) as server:
        with enter(server, user="operator", inbox="operator", password="env:OPERATOR") as broker:
            with serving(server, book, told):
                broker.ensure(Topic("t"))
            server.kill()
            server.start()
            answers: list[object] = []

            def publish() -> None:
                try:
                    answers.append(broker.publish("t", [Record(b"x", "id")], timeout=30))
                except (AccessDenied, ConnectorError) as error:
                    answers.append(error)

            thread = threading.Thread(target=publish)
            thread.start()
            assert until(lambda: REFUSED in server.log.read_text(), 20), "nobody was refused meanwhile"
            with serving(server, book, told):
                thread.join(30)
            assert len(answers) == 1 and isinstance(answers[0], list), answers


def test_the_command(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, a configuration and the service, as somebody would set them up."""
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    runner = CliRunner()
    issuer = runner.invoke(main, ["auth", "key"]).output.strip()
    assert runner.invoke(main, ["auth", "key"]).output.strip() == issuer
    made = runner.invoke(main, ["auth", "hash"], input="word of mouth\n").output.strip()
    people = tmp_path / "people.toml"
    people.write_text(
        f'[callout]\nissuer = "{issuer}"\npassword = "env:CALLOUT"\n[principals.me]\npassword = "{made}"\n'
        'grants = { "*" = ["admin"] }\n'
    )
    config = runner.invoke(main, ["auth", "config", str(people)]).output
    monkeypatch.setenv("ME", "word of mouth")
    with NatsServer(config) as server:
        url = f"nats://127.0.0.1:{server.port}"
        command = [sys.executable, "-m", "proxyfab", "auth", "serve", str(people), url, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                assert "answering" in json.loads(service.stdout.readline())["said"]
                with NatsBroker.from_url(f"{url}?user=me&inbox=_INBOX.me&password=env:ME") as broker:
                    broker.ensure(Topic("t"))
                assert json.loads(service.stdout.readline())["principal"] == "me"
                service.send_signal(signal.SIGTERM)
                assert service.wait(20) == 0
            finally:
                service.kill()
        monkeypatch.setenv("CALLOUT", "wrong")
        refused = runner.invoke(main, ["auth", "serve", str(people), url])
        assert refused.exit_code == 1 and "does not let the service itself in" in refused.output
    other = runner.invoke(main, ["auth", "serve", str(file), url])
    assert other.exit_code == 2 and "servers believe" in other.output


# -- claims ------------------------------------------------------------------------------------------------------------


def test_claims_say_who_signed_them() -> None:
    text = SIGNER.sign({"sub": "x"})
    assert read(text, ACCOUNT) == {"sub": "x", "iss": SIGNER.public}
    assert public_key(ACCOUNT, key_bytes(ACCOUNT, SIGNER.public)) == SIGNER.public
    header, body, signature = text.split(".")
    other = Signer(bytes(32)).sign({"sub": "x"}).split(".")
    for bad in (
        "",
        "a.b.c",
        text + ".x",
        f"{header}.{other[1]}.{signature}",
        f"{header}.{body}.{other[2]}",
        f"{header}.{body}.",
        f"{jwt.utils.base64url_encode(b'{}').decode()}.{body}.{signature}",
        jwt.encode({"sub": "x", "iss": SIGNER.public}, "k" * 32, "HS256"),
        "." * 2,
    ):
        with pytest.raises(IntegrityError):
            read(bad, ACCOUNT)
    with pytest.raises(IntegrityError, match="begins with N"):
        read(text, SERVER)
    with pytest.raises(IntegrityError):
        key_bytes(ACCOUNT, SIGNER.public[:-1] + ("A" if SIGNER.public[-1] != "A" else "B"))


def test_what_is_no_request_is_not_answered(file: Path) -> None:
    callout = Callout(SIGNER, Book(str(file), print))
    for request in (b"", b"x.y.z", SIGNER.sign({"nats": {}}).encode()):
        with pytest.raises(IntegrityError):
            callout.decide(request)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[principals.a]\ngrants = { x = ['read'] }", "read"),
        ("[principals.a]\npassword = 'plain'\ngrants = {}", "neither env:NAME nor"),
        ("[principals.'a.b']\ngrants = {}\n[principals.a_b]\ngrants = {}", "share an inbox"),
        ("[principals.a]\nnkey = 'U'\ngrants = {}", "nkey"),
        ("[principals.a]\naccount = 'CALLOUT'\ngrants = {}", "cannot be called 'CALLOUT'"),
        ("[principals.a]\ntokens = 'x'\ngrants = {}", "described"),
        ("[principals.a]\ngrants = {}\n[tokens.x]\nissuer = 'i'", "need an issuer"),
        ("[principals.a]\ngrants = {}\n[tokens.x]\nissuer='i'\naudience='a'\nkeys='http://x/k'", "https"),
        (
            "[principals.a]\ngrants = {}\n[tokens.x]\nissuer='i'\naudience='a'\nkeys='k'\nalgorithms=['HS256']",
            "cannot be signed with HS256",
        ),
        ("[principals.a]\ngrants = {}\n[callout]\nissuer = 'A'", "is no issuer"),
        (f"[principals.a]\ngrants = {{}}\n[callout]\nissuer = 'A{'B' * 55}'", "is no issuer"),
        ("[principal.a]\ngrants = {}", "principal"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        People.parse(text)
