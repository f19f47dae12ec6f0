"""What every client has in common: addresses, security, and plain sentences for the broker's errors."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import KafkaError as Code

from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable

Config = dict[str, Any]

# A broker that answers a fetch for every record spends more on fetches than on payments: at 1,000/s on 2 busy cores,
# letting it gather for `fetch_wait_ms` took its CPU from 0.6 to 0.5 cores and p99 from 307 to 159 ms.
FETCH_MIN_BYTES: Final = 65_536
UNREACHABLE: Final = frozenset({Code._ALL_BROKERS_DOWN, Code._TRANSPORT, Code._TIMED_OUT, Code._RESOLVE})
_LOG: Final = logging.getLogger("librdkafka")


def common_config(kafka: KafkaSettings) -> Config:
    """Settings of every client. librdkafka's log goes to the `librdkafka` logger."""
    config: Config = {
        "bootstrap.servers": kafka.brokers,
        "client.id": kafka.transactional_id,
        "security.protocol": kafka.security_protocol,
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1_000,
        "allow.auto.create.topics": False,
        "logger": _LOG,
    }
    optional = {
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password and kafka.sasl_password.get_secret_value(),
        "ssl.ca.location": kafka.ssl_ca_file and str(kafka.ssl_ca_file),
        "ssl.certificate.location": kafka.ssl_certificate_file and str(kafka.ssl_certificate_file),
        "ssl.key.location": kafka.ssl_key_file and str(kafka.ssl_key_file),
        "ssl.key.password": kafka.ssl_key_password and kafka.ssl_key_password.get_secret_value(),
    }
    config.update({name: value for name, value in optional.items() if value is not None})
    return config


def group_config(kafka: KafkaSettings) -> Config:
    """Settings of a consumer in the processor's group: nothing is committed or reset behind our back."""
    return common_config(kafka) | {
        "group.id": kafka.group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": kafka.session_timeout_ms,
        "heartbeat.interval.ms": max(100, kafka.session_timeout_ms // 5),
        "max.poll.interval.ms": kafka.max_poll_interval_ms,
        "check.crcs": True,
        "fetch.wait.max.ms": kafka.fetch_wait_ms,
        "fetch.min.bytes": FETCH_MIN_BYTES,
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": 16_384,
    }


def error_of(exception: KafkaException) -> Code:
    """The error inside librdkafka's exception."""
    error: Code = exception.args[0]
    return error


def unavailable(kafka: KafkaSettings, exception: KafkaException) -> KafkaUnavailable:
    """A sentence for an error that no retry has cured."""
    error = error_of(exception)
    if error.code() in UNREACHABLE:
        return KafkaUnavailable(f"no Kafka broker answers at {kafka.brokers}: check kafka.brokers and the network")
    return KafkaUnavailable(f"Kafka at {kafka.brokers} refuses: {error.str()}")


def require_topics(consumer: Consumer, kafka: KafkaSettings, topics: Iterable[str]) -> dict[str, int]:
    """Number of partitions of each topic. Raises KafkaUnavailable when the broker or a topic is not there."""
    try:
        known: Mapping[str, Any] = consumer.list_topics(timeout=kafka.request_timeout_ms / 1000).topics
    except KafkaException as exception:
        raise unavailable(kafka, exception) from exception
    wanted = list(topics)
    missing = [topic for topic in wanted if topic not in known or known[topic].error is not None]
    if missing:
        names = ", ".join(missing)
        raise KafkaUnavailable(f"Kafka at {kafka.brokers} has no topic {names}: create it, or mend the settings")
    return {topic: len(known[topic].partitions) for topic in wanted}


def within(call: Callable[[], object], limit_s: float) -> bool:
    """Run a call that may block for ever, on a thread that is given up after `limit_s`. Whether it came back."""

    def quietly() -> None:
        with contextlib.suppress(KafkaException, SystemError):  # a fenced producer can't be closed in good order
            call()

    thread = threading.Thread(target=quietly, daemon=True, name="kafka-close")
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()
