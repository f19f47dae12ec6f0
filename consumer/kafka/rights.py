"""What the brokers let us do with topics, asked at the start: the first alert at night is no time to learn it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient

from consumer.kafka.client import common_config, unavailable
from consumer.settings import KafkaSettings
from features.errors import KafkaRefused, KafkaUnavailable

Right = Literal["read", "write"]
_OPERATION: Final[Mapping[Right, AclOperation]] = {"read": AclOperation.READ, "write": AclOperation.WRITE}


def missing_rights(kafka: KafkaSettings, wanted: Mapping[str, Right]) -> list[tuple[str, Right]]:
    """Which rights on existing topics are missing. Brokers that can't tell (before 2.3, the embedded one) lack none.

    Raises KafkaUnavailable.
    """
    admin, timeout_s = AdminClient(common_config(kafka)), kafka.request_timeout_ms / 1000
    found: list[tuple[str, Right]] = []
    if not _has_controller(admin, kafka):
        return found
    futures = admin.describe_topics(
        TopicCollection(list(wanted)),
        include_authorized_operations=True,
        request_timeout=timeout_s,
    )
    for topic, future in futures.items():
        try:
            known = future.result(2 * timeout_s).authorized_operations
        except KafkaException as exception:
            raise unavailable(kafka, exception, topic) from exception
        except TimeoutError as error:
            raise KafkaUnavailable(f"Kafka at {kafka.brokers} did not answer in time") from error
        if known and _OPERATION[wanted[topic]] not in known:
            found.append((topic, wanted[topic]))
    return found


def _has_controller(admin: AdminClient, kafka: KafkaSettings) -> bool:
    """Whether anybody can be asked for rights: the embedded broker names a controller that is none of its brokers."""
    try:
        known = admin.list_topics(timeout=kafka.request_timeout_ms / 1000)
    except KafkaException as exception:
        raise unavailable(kafka, exception) from exception
    return known.controller_id < 0 or known.controller_id in known.brokers  # with none at the moment, one is waited for


def require_rights(kafka: KafkaSettings, *, read: Iterable[str], write: Iterable[str]) -> None:
    """Raises KafkaRefused when a topic may not be read, or written, that has to be; KafkaUnavailable."""
    wanted: dict[str, Right] = dict.fromkeys(read, "read")
    wanted.update(dict.fromkeys(write, "write"))
    for topic, right in missing_rights(kafka, wanted):
        raise KafkaRefused(
            f"Kafka at {kafka.brokers} does not let this user {right} the topic {topic}: give it the ACLs that "
            "docs/operations.md lists"
        )
