"""Topics as the brokers have them: look at them, make them, and change what a plan says."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from consumer.kafka.client import UNREACHABLE, cluster, common_config, error_of, unavailable
from consumer.settings import KafkaSettings
from consumer.topic_plan import Found, Step
from features.errors import KafkaUnavailable

_MISSING: Final = Code.UNKNOWN_TOPIC_OR_PART
_DENIED: Final = frozenset({Code.TOPIC_AUTHORIZATION_FAILED, Code.CLUSTER_AUTHORIZATION_FAILED})
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Topics:
    """What there is: the topics by name, and how many brokers."""

    brokers: int
    found: Mapping[str, Found]


class SettingsHidden(KafkaUnavailable):
    """A topic is there, but its settings may not be seen."""


class TopicAdmin:
    """Every verb comes back within a few times `kafka.request_timeout_ms`, or raises KafkaUnavailable."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Connect lazily."""
        self._kafka = kafka
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._admin = AdminClient(common_config(kafka))

    def look(self, names: Iterable[str]) -> Topics:
        """These topics, as far as they are there. Raises KafkaUnavailable, also where one may not be seen."""
        brokers = len(cluster(self._admin, self._kafka).brokers)
        shapes = self._shapes(names)
        return Topics(brokers, self._with_settings(shapes))

    def carry_out(self, steps: Sequence[Step]) -> None:
        """Do steps, what somebody else has done meanwhile too. Raises KafkaUnavailable."""
        self._create([step for step in steps if step.action == "create"])
        for step in steps:
            if step.action == "add partitions":
                self._add_partitions(step)
        changes: dict[str, list[Step]] = {}
        for step in steps:
            if step.action == "set":
                changes.setdefault(step.topic, []).append(step)
        for topic, settings in changes.items():
            self._set(topic, settings)

    def _shapes(self, names: Iterable[str]) -> dict[str, Any]:
        wanted = list(names)
        asked = self._admin.describe_topics(TopicCollection(wanted), request_timeout=self._timeout_s)
        shapes = {}
        for name in wanted:
            try:
                shapes[name] = asked[name].result(2 * self._timeout_s)
            except KafkaException as exception:
                if error_of(exception).code() != _MISSING:
                    self._refuse(exception, f"look at topic {name}", f"Describe on topic {name}")
            except TimeoutError:
                self._no_answer()
        return shapes

    def _with_settings(self, shapes: Mapping[str, Any]) -> dict[str, Found]:
        resources = {name: ConfigResource(ConfigResource.Type.TOPIC, name) for name in shapes}
        if not resources:
            return {}
        asked = self._admin.describe_configs(list(resources.values()), request_timeout=self._timeout_s)
        found = {}
        for name, shape in shapes.items():
            try:
                settings = asked[resources[name]].result(2 * self._timeout_s)
            except KafkaException as exception:
                if error_of(exception).code() in _DENIED:
                    raise SettingsHidden(
                        f"Kafka at {self._kafka.brokers} does not let this user see the settings of topic {name}: "
                        f"allow DescribeConfigs on topic {name}"
                    ) from exception
                self._refuse(exception, f"tell the settings of topic {name}", "")
            except TimeoutError:
                self._no_answer()
            partitions = shape.partitions
            found[name] = Found(
                partitions=len(partitions),
                copies=min((len(each.replicas) for each in partitions), default=0),
                in_step=min((len(each.isr) for each in partitions), default=0),
                settings={entry.name: entry.value for entry in settings.values() if entry.value is not None},
                leaderless=tuple(each.id for each in partitions if each.leader is None or each.leader.id < 0),
            )
        return found

    def _create(self, steps: Sequence[Step]) -> None:
        if not steps:
            return
        new = [NewTopic(step.topic, step.partitions, step.copies, config=dict(step.settings)) for step in steps]
        asked = self._admin.create_topics(new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s)
        for name, future in asked.items():
            try:
                future.result(2 * self._timeout_s)
            except KafkaException as exception:
                if error_of(exception).code() != Code.TOPIC_ALREADY_EXISTS:
                    self._refuse(exception, f"create topic {name}", f"Create on topic {name} (or on the cluster)")
            except TimeoutError:
                self._no_answer()
        self._await_leaders([step.topic for step in steps])

    def _await_leaders(self, names: Sequence[str]) -> None:
        """A topic that was just made is written and read once its partitions have leaders."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                known = self._admin.list_topics(timeout=self._timeout_s).topics
            except KafkaException as exception:
                raise unavailable(self._kafka, exception) from exception
            parts = {name: known[name].partitions.values() for name in names if name in known}
            led = [name for name, each in parts.items() if each and all(part.leader >= 0 for part in each)]
            if len(led) == len(names):
                return
            if time.monotonic() > deadline_s:
                late = ", ".join(sorted(set(names) - set(led)))
                raise KafkaUnavailable(
                    f"Kafka at {self._kafka.brokers} has created {late}, but no leader in time: look at the brokers"
                )
            time.sleep(_PAUSE_S)

    def _add_partitions(self, step: Step) -> None:
        asked = self._admin.create_partitions(
            [NewPartitions(step.topic, step.partitions)], request_timeout=self._timeout_s
        )
        try:
            asked[step.topic].result(2 * self._timeout_s)
        except KafkaException as exception:
            if error_of(exception).code() != Code.INVALID_PARTITIONS:  # else there are as many by now
                self._refuse(exception, f"add partitions to topic {step.topic}", f"Alter on topic {step.topic}")
        except TimeoutError:
            self._no_answer()

    def _set(self, topic: str, steps: Sequence[Step]) -> None:
        entries = [ConfigEntry(step.setting, step.wants, incremental_operation=AlterConfigOpType.SET) for step in steps]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        asked = self._admin.incremental_alter_configs([resource], request_timeout=self._timeout_s)
        names = ", ".join(step.setting for step in steps)
        self._outcome(asked[resource], f"set {names} of topic {topic}", f"AlterConfigs on topic {topic}")

    def _outcome(self, future: Future[Any], verb: str, right: str) -> Any:
        try:
            return future.result(2 * self._timeout_s)
        except KafkaException as exception:
            self._refuse(exception, verb, right)
        except TimeoutError:
            self._no_answer()

    def _refuse(self, exception: KafkaException, verb: str, right: str) -> NoReturn:
        error = error_of(exception)
        if error.code() in _DENIED:
            raise KafkaUnavailable(
                f"Kafka at {self._kafka.brokers} does not let this user {verb}: allow {right}"
            ) from exception
        if error.code() == Code._TIMED_OUT and "controller" in error.str():
            raise KafkaUnavailable(
                f"Kafka at {self._kafka.brokers} has no controller that answers, so it can't {verb}: the broker inside "
                "`fraudline demo` never has one, another one is in trouble"
            ) from exception
        if error.code() in UNREACHABLE:
            raise unavailable(self._kafka, exception) from exception
        raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} can't {verb}: {error.str()}") from exception

    def _no_answer(self) -> NoReturn:
        raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not answer in time: look at the brokers")
