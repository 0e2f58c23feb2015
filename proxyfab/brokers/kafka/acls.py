"""Grants at Kafka, as ACL bindings that `events.access` makes of them."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from proxyfab.brokers.kafka.client import Client
from proxyfab.events.access import KafkaRule, check_grant, kafka_grants, kafka_rules
from proxyfab.events.model import Grant

_ANY_HOST = "*"


class Acls:
    """What a cluster with an authorizer lets others do. Needs the right to alter the cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def grant(self, principal: str, topic: str, actions: Iterable[str]) -> None:
        """Let somebody do something with topics."""
        rules = kafka_rules(check_grant(Grant(principal, topic, frozenset(actions))), self._client.place.values)
        wanted = [_binding(rule) for rule in rules]
        self._client.answers(
            f"Granting {topic} to {principal} at {self._client.place.label}",
            lambda admin, seconds: admin.create_acls(wanted, request_timeout=seconds),
        )

    def revoke(self, principal: str, topic: str) -> bool:
        """Take back all of it; whether there was something."""
        if not any(grant.principal == principal and grant.topic == topic for grant in self.grants()):
            return False
        grant = Grant(principal, topic, frozenset({"publish", "subscribe", "admin"}))
        kept = {
            rule
            for other in self.grants()
            if other.principal == principal and other.topic != topic
            for rule in kafka_rules(other, self._client.place.values)
        }
        gone = [_filter(rule) for rule in kafka_rules(grant, self._client.place.values) if rule not in kept]
        self._client.answers(
            f"Revoking {topic} from {principal} at {self._client.place.label}",
            lambda admin, seconds: admin.delete_acls(gone, request_timeout=seconds),
        )
        return True

    def grants(self) -> list[Grant]:
        """What was granted in these words, by whomever; rules that make no whole grant are not told."""
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ALLOW
        )
        found = self._client.answers(
            f"Asking {self._client.place.label} for its ACLs",
            lambda admin, seconds: {"": admin.describe_acls(every, request_timeout=seconds)},
        )[""]
        return kafka_grants([_rule(each) for each in found], self._client.place.values)


def _binding(rule: KafkaRule) -> AclBinding:
    return AclBinding(*_parts(rule))


def _filter(rule: KafkaRule) -> AclBindingFilter:
    return AclBindingFilter(*_parts(rule))


def _parts(
    rule: KafkaRule,
) -> tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation, AclPermissionType]:
    return (
        ResourceType[rule.resource],
        rule.name,
        ResourcePatternType[rule.pattern],
        rule.principal,
        _ANY_HOST,
        AclOperation[rule.operation],
        AclPermissionType.ALLOW,
    )


def _rule(binding: AclBinding) -> KafkaRule:
    return KafkaRule(
        binding.principal,
        binding.restype.name,
        binding.resource_pattern_type.name,
        binding.name,
        binding.operation.name,
    )
