"""Kafka for tests: librdkafka's mock cluster in a process of its own, which others reach over TCP.

    with KafkaCluster() as cluster:
        broker = KafkaBroker.from_url(cluster.url)
        cluster.down(1)         # nothing is answered there until cluster.up(1)

Promises: a cluster ends with its block, and with this process however that ends. It keeps everything in memory, at most
5 MiB or 100,000 records of a partition, and cannot do what needs an administrator's request: topics are made here
(`create`) or by being used, and there are neither access rules nor looking for a moment. Needs `confluent-kafka`, whose
own librdkafka it drives through ctypes.
"""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyfab.errors import MissingDependency
from proxyfab.testing.processes import Child, halt

if TYPE_CHECKING:
    from typing import Self

_PRODUCER = 0
_ROOM = 512
_EXISTS = 36
HEARTBEAT = 100
"""Milliseconds between the heartbeats of a group's members; a real Kafka has 5,000."""
SESSION = 3000
"""Milliseconds after which a member that is silent is none; a real Kafka has 45,000."""
WAKE = 10
"""Milliseconds that a fetch waits at most: the mock does not answer a waiting one when something comes."""


class KafkaCluster:
    """A mock cluster.

    Args:
        brokers: How many.
    """

    def __init__(self, brokers: int = 1) -> None:
        self.brokers = brokers
        self.hosts = ""
        self._child: Child | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What opens a broker there."""
        return f"kafka://{self.hosts}?admin=0&rd.fetch.wait.max.ms={WAKE}&rd.reconnect.backoff.max.ms=200"

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic, if there is none."""
        self._ask("create", topic, partitions, allowed=_EXISTS)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        self._ask("delete", topic)

    def down(self, broker: int = 1) -> None:
        """Cut all connections to a broker and take no new ones."""
        self._ask("down", broker)

    def up(self, broker: int = 1) -> None:
        """Take connections again."""
        self._ask("up", broker)

    def slow(self, seconds: float, broker: int = 1) -> None:
        """Let each answer of a broker take so long."""
        self._ask("slow", broker, round(1000 * seconds))

    def fail(self, request: int, *errors: int) -> None:
        """Answer the next requests of a kind (its API key in Kafka's protocol) with these error codes."""
        self._ask("fail", request, errors)

    def heal(self, request: int) -> None:
        """Forget failures of this kind that have not happened yet."""
        self._ask("heal", request)

    def version(self, request: int, newest: int) -> None:
        """The newest version of a request that it speaks; -1 for none at all."""
        self._ask("version", request, newest)

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Forget records of a partition before Kafka's offset `before`, as retention does."""
        self._ask("trim", topic, partition, before)

    def start(self) -> None:
        """Start it; everything is new, its ports too."""
        self._child = Child(serve, self.brokers)
        self.hosts = self._child.receive()

    def stop(self) -> None:
        """SIGSTOP: it answers nobody, and nobody is told."""
        assert self._child is not None, "the cluster does not run"
        halt(self._child.pid)

    def go_on(self) -> None:
        """SIGCONT."""
        if self._child is not None:
            os.kill(self._child.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: all is gone."""
        if self._child is not None:
            self._child.__exit__(None, None, None)
            self._child = None

    def _ask(self, *question: Any, allowed: int = 0) -> None:
        assert self._child is not None, "the cluster does not run"
        with self._lock:
            answer = self._child.ask(*question)
        assert answer in (0, allowed), f"the mock cluster cannot do {question}: error {answer}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def serve(talk: Any, brokers: int) -> None:
    """What the cluster's process runs, until its parent is gone."""
    mock = _Mock(brokers)
    talk.send(mock.hosts)
    while True:
        try:
            name, *arguments = talk.recv()
        except EOFError:
            return
        talk.send(mock.commands[name](*arguments) or 0)


class _Mock:
    """A cluster in this process."""

    def __init__(self, brokers: int) -> None:
        self._library = _library()
        config = self._pointer("rd_kafka_conf_new")
        error = ctypes.create_string_buffer(_ROOM)
        self._handle = self._pointer("rd_kafka_new", _PRODUCER, config, error, ctypes.c_size_t(_ROOM))
        assert self._handle.value, error.value
        self._cluster = self._pointer("rd_kafka_mock_cluster_new", self._handle, brokers)
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self.hosts: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._do("rd_kafka_mock_group_initial_rebalance_delay_ms", 0)
        self._do("rd_kafka_mock_set_group_consumer_heartbeat_interval_ms", HEARTBEAT)
        self._do("rd_kafka_mock_set_group_consumer_session_timeout_ms", SESSION)
        self.commands: dict[str, Callable[..., int | None]] = {
            "create": lambda topic, number: self._do("rd_kafka_mock_topic_create", topic.encode(), number, 1),
            "delete": lambda topic: self._do("rd_kafka_mock_topic_delete", topic.encode()),
            "down": lambda broker: self._do("rd_kafka_mock_broker_set_down", broker),
            "up": lambda broker: self._do("rd_kafka_mock_broker_set_up", broker),
            "slow": lambda broker, wait: self._do("rd_kafka_mock_broker_set_rtt", broker, wait),
            "fail": self._fail,
            "heal": lambda request: self._do("rd_kafka_mock_clear_request_errors", ctypes.c_int16(request)),
            "version": lambda request, newest: self._do(
                "rd_kafka_mock_set_apiversion", *map(ctypes.c_int16, (request, min(newest, 0), newest))
            ),
            "trim": lambda topic, number, before: self._do(
                "rd_kafka_mock_partition_delete_records", topic.encode(), number, ctypes.c_int64(before)
            ),
        }

    def _do(self, name: str, *arguments: Any) -> int:
        found = getattr(self._library, name)(self._cluster, *arguments)
        return found if isinstance(found, int) else 0

    def _fail(self, request: int, errors: tuple[int, ...]) -> None:
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), codes
        )

    def _pointer(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        function = getattr(self._library, name)
        function.restype = ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))


def _library() -> ctypes.CDLL:
    """The librdkafka that `confluent_kafka` itself uses."""
    try:
        import confluent_kafka
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "The mock cluster needs 'confluent_kafka', which is not installed: pip install 'proxyfab[kafka]'"
        ) from error
    beside = os.path.join(os.path.dirname(confluent_kafka.__file__), os.pardir, "confluent_kafka.libs")
    for path in glob.glob(os.path.join(beside, "librdkafka*")):
        return ctypes.CDLL(path)
    raise MissingDependency("This confluent_kafka has no librdkafka of its own: pip install it as a wheel.")
