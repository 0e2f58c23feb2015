"""The suites that every connector passes, and what they are built of. Shipped, so that others are judged by the same.

| name | what |
|---|---|
| Kills, subject | kills processes at random moments and judges the history of what the others saw |
| ConnectorTests | the conformance suite of connectors: subclass it, say how to open yours, run pytest |
| BrokerTests | the conformance suite of brokers: likewise |
| ConnectorMachine | a Hypothesis state machine that compares a connector with a dict |
| NatsServer | a real nats-server with JetStream, in a process of its own |
| KafkaCluster | a Kafka to test with: librdkafka's mock cluster, in a process of its own |
| FaultyConnector | a connector around a connector: counts, delays, fails on demand |
| Cable | a cable between a client and a real server, to be cut, silenced, slowed and spoiled |
| Child, in_fork | processes with a deadline, to talk to and to kill at a chosen moment |
| until | waits for a condition, with a deadline |
| no_leaks | a pytest fixture: file descriptors, threads and shared memory that a test leaves behind fail it |
| leaked_keys | the objects that a block of code left in a connector |

Each is loaded when it is asked for: child processes use half of this package and need neither pytest nor Hypothesis.
"""

import importlib

_HOMES = {
    "BrokerTests": "brokers",
    "Cable": "cable",
    "Child": "processes",
    "ConnectorMachine": "stateful",
    "ConnectorTests": "connectors",
    "FaultyConnector": "faults",
    "KafkaCluster": "kafka",
    "Kills": "kills",
    "NatsServer": "natsserver",
    "in_fork": "processes",
    "leaked_keys": "leaks",
    "no_leaks": "leaks",
    "subject": "subjects",
    "until": "processes",
}

__all__ = [
    "BrokerTests",
    "Cable",
    "Child",
    "ConnectorMachine",
    "ConnectorTests",
    "FaultyConnector",
    "KafkaCluster",
    "Kills",
    "NatsServer",
    "in_fork",
    "leaked_keys",
    "no_leaks",
    "subject",
    "until",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
