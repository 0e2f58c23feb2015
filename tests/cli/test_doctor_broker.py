"""`proxyfab doctor` at brokers that are well, and at such as are not: it says what is wrong and what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import threading

import pytest
from click.testing import CliRunner

from proxyfab.brokers import open_broker
from proxyfab.brokers.nats.program import program
from proxyfab.cli import main
from proxyfab.errors import ConnectorError
from proxyfab.events.handle import broker_of
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.processes import until
from proxyfab.testing.servers import free_port


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(main, ["doctor", *arguments, "--json"])
    return done.exit_code, {item["check"]: item for item in json.loads(done.output)}


@pytest.fixture
def close_brokers():
    """Closes what a command has left open to this process."""
    opened: list[str] = []
    yield opened.append
    for url in opened:
        broker_of(open_broker(url)).close()  # whoever still waits for something


@pytest.mark.parametrize("kind", ["memory", "redis", "nats"])
def test_one_that_is_well(kind, redis_server, nats_server, close_brokers):
    url = {"memory": "memory://well", "redis": redis_server.database(), "nats": nats_server.url}[kind]
    close_brokers(url)
    status, found = doctor(url, "--broker")

    assert status == 0, found
    assert {each["state"] for each in found.values() if each["check"] in ("key", "clock", "round trip")} == {"ok"}
    assert "published, fetched and acknowledged" in found["round trip"]["detail"]
    expected = {"memory": set(), "redis": {"port", "version", "permission", "memory"}}
    assert expected.get(kind, {"port", "version", "JetStream", "disk", "topics"}) <= found.keys()
    assert [topic for topic in open_broker(url).topics() if "doctor" in topic] == []


def test_nats_whose_token_is_not_known_here(close_brokers):
    with NatsServer(token="s3cret") as server:
        url = f"nats://127.0.0.1:{server.port}"
        close_brokers(url)
        status, found = doctor(url)
    assert status == 1
    assert found["version"]["state"] == "ok"
    assert found["key"]["state"] == "fail"
    assert "PROXYFAB_NATS_TOKEN" in found["key"]["detail"]
    assert "round trip" not in found


def test_nats_without_jetstream(close_brokers):
    port = free_port()
    server = subprocess.Popen([program(), "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: _answers(port))
        close_brokers(f"nats://127.0.0.1:{port}")
        status, found = doctor(f"nats://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()
    assert status == 1
    assert found["JetStream"]["state"] == "warn"
    assert "-js" in found["JetStream"]["detail"]
    assert "-js" in found["server"]["detail"]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_what_answers_is_no_nats(close_brokers):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"nats://127.0.0.1:{server.getsockname()[1]}"
        close_brokers(url)

        def answer() -> None:
            for _ in range(2):  # a look at the port, and one at what is there
                link, _ = server.accept()
                link.sendall(b"220 mail.example ESMTP\r\n")
                link.close()

        thread = threading.Thread(target=answer)
        thread.start()
        status, found = doctor(url)
        thread.join()
    assert status == 1
    assert "is no nats-server; check the port" in found["server"]["detail"]


@pytest.mark.parametrize(
    "url", ["nats://127.0.0.1:1", "kafka://127.0.0.1:1", "redis://127.0.0.1:1", "zmq://127.0.0.1:1"]
)
def test_nobody_is_there(url, close_brokers):
    close_brokers(url)
    status, found = doctor(url, "--broker")
    assert status == 1
    assert found["port"]["state"] == "fail"
    assert "refuses connections" in found["port"]["detail"]


def test_a_socket_that_is_not_there(tmp_path, close_brokers):
    url = f"zmq://{tmp_path}/socket"
    close_brokers(url)
    status, found = doctor(url, "--broker")
    assert status == 1
    assert "start the server with `proxyfab broker" in found["socket"]["detail"]


def test_a_round_trip_that_fails_is_told(monkeypatch, close_brokers):
    close_brokers("memory://ill")

    def publish(*_args, **_more):
        raise ConnectorError("The server went away; start it again.")

    monkeypatch.setattr("proxyfab.brokers.memory.MemoryBroker.publish", publish)
    status, found = doctor("memory://ill", "--broker")
    assert status == 1
    assert found["round trip"]["detail"] == "ConnectorError: The server went away; start it again."
    assert open_broker("memory://ill").topics() == []


def test_a_url_that_makes_no_sense_is_a_wrong_call():
    assert CliRunner().invoke(main, ["doctor", "nats://"]).exit_code == 2
    assert CliRunner().invoke(main, ["doctor", "shm://", "--broker"]).exit_code == 2
