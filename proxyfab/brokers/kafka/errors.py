"""What librdkafka and Kafka complain of, as errors of proxyfab: what failed, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from proxyfab.errors import (
    AccessDenied,
    BackPressureError,
    CapabilityError,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    ProxyfabError,
    TopicNotFound,
)

_K = KafkaError
REFUSED = {
    _K.TOPIC_AUTHORIZATION_FAILED,
    _K.GROUP_AUTHORIZATION_FAILED,
    _K.CLUSTER_AUTHORIZATION_FAILED,
    _K.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    _K.SASL_AUTHENTICATION_FAILED,
    _K._AUTHENTICATION,
}
ABSENT = {_K.UNKNOWN_TOPIC_OR_PART, _K._UNKNOWN_TOPIC, _K._UNKNOWN_PARTITION, _K.UNKNOWN_TOPIC_ID}
_LARGE = {_K.MSG_SIZE_TOO_LARGE, _K.RECORD_LIST_TOO_LARGE, _K.KAFKA_STORAGE_ERROR}
_FULL = {_K._QUEUE_FULL, _K.THROTTLING_QUOTA_EXCEEDED}
UNABLE = {_K.UNSUPPORTED_VERSION, _K._UNSUPPORTED_FEATURE, _K.SECURITY_DISABLED}
PASSING = {
    _K._NOENT,  # no leader is known
    _K._TIMED_OUT,
    _K._WAIT_COORD,
    _K.LEADER_NOT_AVAILABLE,
    _K.NOT_LEADER_FOR_PARTITION,
    _K.COORDINATOR_NOT_AVAILABLE,
    _K.COORDINATOR_LOAD_IN_PROGRESS,
    _K.NOT_COORDINATOR,
}
"""What is over in a moment: a question is asked again."""
_SENSELESS = {
    _K.INVALID_CONFIG,
    _K.INVALID_PARTITIONS,
    _K.INVALID_REPLICATION_FACTOR,
    _K.INVALID_GROUP_ID,
    _K.POLICY_VIOLATION,
    _K._INVALID_ARG,
    _K.TOPIC_EXCEPTION,
}
_MIXED = {_K.UNKNOWN_MEMBER_ID, _K.ILLEGAL_GENERATION, _K.STALE_MEMBER_EPOCH, _K.FENCED_MEMBER_EPOCH}


def translate(error: KafkaError, said: str) -> ProxyfabError:
    """The error of proxyfab that `error` is; `said` is what was done, and where."""
    code, detail = error.code(), error.str().rstrip(".")
    if code in REFUSED:
        return AccessDenied(f"{said} was refused: {detail}. Check ?sasl=, ?user= and its password, and the ACLs.")
    if code in ABSENT:
        return TopicNotFound(f"{said} failed, there is no such topic or partition: {detail}.")
    if code in _LARGE:
        return CapacityError(f"{said} failed, there is no room: {detail}. Send less at once, or raise the limit.")
    if code in _FULL:
        return BackPressureError(f"{said} failed, too much is on its way: {detail}. Try again later.")
    if code in UNABLE:
        return CapabilityError(f"{said} failed, this Kafka cannot do that: {detail}.")
    if code in _SENSELESS:
        return ConfigurationError(f"{said} makes no sense there: {detail}.")
    if code in _MIXED:
        return ConnectorError(
            f"{said} failed: {detail}. The member was away for too long, or others of its group name no partitions."
        )
    return ConnectorError(f"{said} failed: {detail}. Is the cluster running, and the address, ?tls= and ?sasl= right?")


@contextmanager
def translated(said: str) -> Iterator[None]:
    """Around calls of confluent_kafka."""
    try:
        yield
    except KafkaException as error:
        raise translate(error.args[0], said) from error
    except RuntimeError as error:  # a handle that was closed meanwhile
        raise ConnectorError(f"{said} failed: {error}.") from error
