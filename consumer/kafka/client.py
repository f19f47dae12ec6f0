"""What every client has in common: addresses, security, and plain sentences for the broker's errors."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient, ClusterMetadata

from consumer.kafka.causes import cause, forget, listener, sentence_of, silence
from consumer.kafka.probe import look
from consumer.settings import KafkaSettings
from features.errors import ConfigError, KafkaRefused, KafkaUnavailable

Config = dict[str, Any]

HEARTBEAT_MS: Final = 250  # only by its answers a member hears that others joined: till then what moves is nobody's
# A broker that answers a fetch for every record spends more on fetches than on payments: at 1,000/s on 2 busy cores,
# letting it gather for `fetch_wait_ms` took its CPU from 0.6 to 0.5 cores and p99 from 307 to 159 ms.
FETCH_MIN_BYTES: Final = 65_536
SOCKET_MARGIN_MS: Final = 1_000  # for a fetch that finds nothing to come back
UNREACHABLE: Final = frozenset({Code._ALL_BROKERS_DOWN, Code._TRANSPORT, Code._TIMED_OUT, Code._RESOLVE})
DENIED: Final = {
    Code.TOPIC_AUTHORIZATION_FAILED: "the topic",
    Code.GROUP_AUTHORIZATION_FAILED: "the group",
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the transactional id",
    Code.CLUSTER_AUTHORIZATION_FAILED: "the cluster",
}
"""Codes of what an ACL does not allow, with what it is about."""
FIRST_SLICE_S: Final = 0.5
AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where machines keep whom they believe: Debian, Red Hat, SUSE, Alpine."""
_LOG: Final = logging.getLogger("librdkafka")


def common_config(kafka: KafkaSettings) -> Config:
    """Settings of every client. librdkafka's log goes to the `librdkafka` logger.

    Raises ConfigError: a certificate or a key can't be used.
    """
    _check_files(kafka)
    config: Config = {
        "bootstrap.servers": kafka.brokers,
        "client.id": kafka.transactional_id,
        "security.protocol": kafka.security_protocol,
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1_000,
        "allow.auto.create.topics": False,
        "logger": _LOG,
        "error_cb": listener(kafka),
        # what they are anyway, said so that nothing else can make them something else
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",
    }
    optional = {
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password and kafka.sasl_password.get_secret_value(),
        "ssl.ca.location": kafka.ssl_ca_file and str(kafka.ssl_ca_file),
        "ssl.certificate.location": kafka.ssl_certificate_file and str(kafka.ssl_certificate_file),
        "ssl.key.location": kafka.ssl_key_file and str(kafka.ssl_key_file),
        "ssl.key.password": kafka.ssl_key_password and kafka.ssl_key_password.get_secret_value(),
        **_tokens(kafka),
    }
    config.update({name: value for name, value in optional.items() if value is not None})
    return config


def _tokens(kafka: KafkaSettings) -> Config:
    """The client fetches tokens itself, and anew before one ends."""
    if kafka.sasl_mechanism != "OAUTHBEARER":
        return {}
    secret = kafka.sasl_oauth_client_secret
    return {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": kafka.sasl_oauth_token_url,
        "sasl.oauthbearer.client.id": kafka.sasl_oauth_client_id,
        "sasl.oauthbearer.client.secret": secret and secret.get_secret_value(),
        "sasl.oauthbearer.scope": kafka.sasl_oauth_scope,
        "https.ca.location": str(kafka.sasl_oauth_ca_file) if kafka.sasl_oauth_ca_file else _authorities(),
    }


def _authorities() -> str | None:
    """The machine's own authorities: what the client asks for tokens with looks in one place, that of who built it.

    librdkafka's `probe` does not help where that place is not there.
    """
    own = ssl.get_default_verify_paths().cafile or ""  # `SSL_CERT_FILE`, if that is set
    return next((path for path in (own, *AUTHORITIES) if Path(path).is_file()), None)


def _check_files(kafka: KafkaSettings) -> None:
    """Refuse certificates and keys that no client could use, in our words. Raises ConfigError."""
    for name in ("ssl_ca_file", "sasl_oauth_ca_file"):
        if path := getattr(kafka, name):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            except (OSError, ValueError):
                raise ConfigError(f"kafka.{name} names {path}, which holds no certificate in PEM.") from None
    if kafka.ssl_certificate_file is None or kafka.ssl_key_file is None:
        return
    password = kafka.ssl_key_password
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            kafka.ssl_certificate_file, kafka.ssl_key_file, lambda: password.get_secret_value() if password else ""
        )
    except (OSError, ValueError):
        raise ConfigError(
            f"kafka.ssl_certificate_file ({kafka.ssl_certificate_file}) and kafka.ssl_key_file ({kafka.ssl_key_file}) "
            "are no certificate and its key in PEM, or kafka.ssl_key_password does not open the key."
        ) from None


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
        "heartbeat.interval.ms": min(HEARTBEAT_MS, kafka.session_timeout_ms // 5),
        "max.poll.interval.ms": kafka.max_poll_interval_ms,
        "check.crcs": True,
        # a commit outside of a transaction takes no time-out, and no other call gets through while it waits
        "socket.timeout.ms": max(kafka.request_timeout_ms, kafka.fetch_wait_ms + SOCKET_MARGIN_MS),
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


def unavailable(kafka: KafkaSettings, exception: KafkaException, topic: str | None = None) -> KafkaUnavailable:
    """A sentence for an error that no retry has cured; KafkaRefused for one that none will.

    `topic` is the one that it is about, where that is known.
    """
    error = error_of(exception)
    if (denial := denied(kafka, error, topic)) is not None:
        return denial
    if error.code() in UNREACHABLE:
        return KafkaUnavailable(cause(kafka) or silence(kafka))
    return KafkaUnavailable(sentence_of(kafka, error) or f"Kafka at {kafka.brokers} refuses: {error.str()}")


def denied(kafka: KafkaSettings, error: Code, topic: str | None = None) -> KafkaRefused | None:
    """What an ACL is missing for, if that is what an error is about."""
    if (what := DENIED.get(error.code())) is None:
        return None
    named = {"the topic": topic, "the group": kafka.group_id, "the transactional id": kafka.transactional_id}.get(what)
    about = f"{what} {named}" if named else "a topic that it needs" if what == "the topic" else what
    return KafkaRefused(
        f"Kafka at {kafka.brokers} does not let this user use {about}: give it the ACLs that docs/operations.md lists"
    )


def heard(consumer: Consumer, kafka: KafkaSettings) -> KafkaRefused | None:
    """What an ACL is missing for, where a call only ran out of time: that comes where records come.

    Whoever reads has to assign its partitions anew: a record may be taken and dropped here.
    """
    message = consumer.poll(0)
    error = None if message is None else message.error()
    return None if message is None or error is None else denied(kafka, error, message.topic())


def require_topics(consumer: Consumer, kafka: KafkaSettings, topics: Iterable[str]) -> dict[str, int]:
    """Number of partitions of each topic.

    Raises KafkaUnavailable when the broker or a topic is not there, KafkaRefused when it or we are not trusted.
    """
    known: Mapping[str, Any] = cluster(consumer, kafka).topics
    wanted = list(topics)
    missing = [topic for topic in wanted if topic not in known or known[topic].error is not None]
    for topic in missing:
        check_hidden(consumer, kafka, topic)
    if missing:
        names = ", ".join(missing)
        raise KafkaUnavailable(f"Kafka at {kafka.brokers} has no topic {names}: create it, or mend the settings")
    return {topic: len(known[topic].partitions) for topic in wanted}


def cluster(client: Consumer | AdminClient, kafka: KafkaSettings) -> ClusterMetadata:
    """The brokers, and all topics that we may know of: the first thing to ask, with a client that reads nothing yet.

    What no patience cures is said as soon as it is heard of. Raises KafkaUnavailable, KafkaRefused.
    """
    deadline_s = time.monotonic() + kafka.request_timeout_ms / 1000
    slice_s, has_looked = FIRST_SLICE_S, False
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            known: ClusterMetadata = client.list_topics(timeout=max(0.1, min(slice_s, left_s)))
        except KafkaException as exception:
            _tell_cause(client)
            if (why := cause(kafka)) is not None:
                has_more = None if has_looked else look(kafka)
                raise KafkaRefused(has_more if has_more and "certificate of" in why else why) from exception
            if not has_looked and (why := look(kafka)) is not None:
                raise KafkaRefused(why) from exception
            has_looked = True
            if error_of(exception).code() not in UNREACHABLE or left_s <= slice_s:
                raise unavailable(kafka, exception) from exception
            slice_s *= 2
        else:
            forget(kafka)
            return known


def _tell_cause(client: Consumer | AdminClient) -> None:
    """Let a client call its `error_cb`. What it would log beside that is said by our own sentence."""
    before, _LOG.disabled = _LOG.disabled, True
    try:
        client.poll(0)
    finally:
        _LOG.disabled = before


def check_hidden(client: Consumer | AdminClient, kafka: KafkaSettings, topic: str) -> None:
    """A topic that we may not know of is left out of the list of all; asked for by name, the broker says so.

    Raises KafkaRefused for such a one, KafkaUnavailable.
    """
    try:
        found = client.list_topics(topic, timeout=kafka.request_timeout_ms / 1000).topics[topic]
    except KafkaException as exception:
        raise unavailable(kafka, exception, topic) from exception
    if found.error is not None and (denial := denied(kafka, found.error, topic)) is not None:
        raise denial


def flush(producer: Producer, limit_s: float) -> int:
    """How many records are still on their way. A fatal error is none of them: `on_delivery` was told what it is.

    confluent-kafka raises it here, and from within `on_delivery`, whose result it then takes for a mistake.
    """
    try:
        left: int = producer.flush(limit_s)
    except (KafkaException, SystemError):
        return max(1, len(producer))
    return left


def within(call: Callable[[], object], limit_s: float) -> bool:
    """Run a call that may block for ever, on a thread that is given up after `limit_s`. Whether it came back."""

    def quietly() -> None:
        with contextlib.suppress(KafkaException, SystemError):  # a fenced producer can't be closed in good order
            call()

    thread = threading.Thread(target=quietly, daemon=True, name="kafka-close")
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()


class Bounded:
    """Runs calls that ought to come back in time and may not, one at a time. `close` it: its thread ends once idle."""

    def __init__(self) -> None:
        """Start the thread that makes the calls."""
        self._calls: SimpleQueue[tuple[Callable[[], None], SimpleQueue[BaseException | None]] | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="kafka-call").start()

    def __call__(self, call: Callable[[], None], limit_s: float) -> None:
        """Make a call and wait for its end; what it raises is raised here.

        Raises TimeoutError after `limit_s`: the call goes on, maybe for ever, and nothing more can be called.
        """
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._calls.put((call, ended))
        try:
            raised = ended.get(timeout=limit_s)
        except Empty:
            raise TimeoutError from None
        if raised is not None:
            raise raised

    def close(self) -> None:
        """End the thread, once it is idle."""
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            call, ended = given
            try:
                call()
            except BaseException as raised:
                ended.put(raised)
            else:
                ended.put(None)
