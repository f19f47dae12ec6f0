"""Why brokers can't be reached, or refuse us: what clients hear of it, as a sentence that names the setting to look at.

A call that fails says no more than "all brokers are down". The cause comes apart from it, to a client's `error_cb`, on
whichever thread polls that client. Clients with the same settings share their fate, so a cause is kept by settings, and
for a minute: the client repeats one that lasts every half minute. Nothing of what a broker or a token endpoint wrote is
quoted, for it may be what it was given.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from confluent_kafka import KafkaError as Code

from consumer.settings import KafkaSettings

RECENT_S: Final = 60.0
TOKEN: Final = "OAUTHBEARER token"  # noqa: S105  what the client says when it gets none
_LOG: Final = logging.getLogger("fraudline.kafka")
_LOCK: Final = threading.Lock()
_HEARD: Final[dict[KafkaSettings, tuple[float, str]]] = {}

_LATE: Final = ("timed out", "timeout")
_UNREACHED: Final = ("connect", "resolve")
_UNTRUSTED: Final = ("ssl", "certificate", "trust anchors")
_OF_THE_CLIENT: Final = ("bad certificate", "certificate required", "unknown ca", "certificate unknown")


def listener(kafka: KafkaSettings) -> Callable[[Code], None]:
    """An `error_cb` for a client with these settings. Safe on any thread."""
    return partial(_hear, kafka)


def cause(kafka: KafkaSettings) -> str | None:
    """Why clients with these settings failed in the last minute; None when nothing was said but that they did."""
    with _LOCK:
        at_s, sentence = _HEARD.get(kafka, (0.0, ""))
    return sentence if sentence and time.monotonic() - at_s < RECENT_S else None


def forget(kafka: KafkaSettings) -> None:
    """A broker has answered: what was heard before is no longer so."""
    with _LOCK:
        _HEARD.pop(kafka, None)


def _hear(kafka: KafkaSettings, error: Code) -> None:
    sentence = sentence_of(kafka, error)
    if sentence is None:
        return
    is_new = cause(kafka) != sentence
    with _LOCK:
        _HEARD[kafka] = (time.monotonic(), sentence)
    if is_new:
        _LOG.info(sentence)  # a call that fails for it says it too, and louder


def sentence_of(kafka: KafkaSettings, error: Code) -> str | None:
    """What an error of a client tells of its credentials or of TLS; None for any other: a broker that is away, say."""
    code, text = error.code(), error.str()
    if code in (Code._AUTHENTICATION, Code.SASL_AUTHENTICATION_FAILED):
        return _of_sasl(kafka, text)
    return _of_tls(kafka, text, is_tls=code == Code._SSL)


def _of_tls(kafka: KafkaSettings, text: str, *, is_tls: bool) -> str | None:
    where = f"Kafka at {kafka.brokers}"
    if "certificate verify failed" in text:
        return untrusted(kafka)
    if any(sign in text for sign in _OF_THE_CLIENT):
        if kafka.ssl_certificate_file is None:
            return f"{where} wants a client certificate: set kafka.ssl_certificate_file and kafka.ssl_key_file"
        return f"{where} does not trust our certificate: check kafka.ssl_certificate_file and its authority"
    if "PLAINTEXT broker listener" in text:
        return no_tls(kafka)
    if is_tls:
        return (
            f"TLS with {where} failed: check kafka.security_protocol, kafka.ssl_ca_file and kafka.ssl_certificate_file"
        )
    return None


def untrusted(kafka: KafkaSettings, why: str = "") -> str:
    """A broker's certificate does not hold."""
    return (
        f"the certificate of Kafka at {kafka.brokers} can't be trusted{why and f' ({why})'}: check kafka.ssl_ca_file, "
        "its dates, and that it names the hosts in kafka.brokers"
    )


def no_tls(kafka: KafkaSettings) -> str:
    """A listener without TLS was asked for it."""
    return (
        f"Kafka at {kafka.brokers} does not speak TLS there: check kafka.security_protocol ({kafka.security_protocol}) "
        "and the port in kafka.brokers"
    )


def _of_sasl(kafka: KafkaSettings, text: str) -> str:
    where = f"Kafka at {kafka.brokers}"
    if TOKEN in text:
        return _of_token(kafka, text.lower())
    if "mechanism handshake failed" in text:
        return (
            f"{where} does not take SASL {kafka.sasl_mechanism} there: check kafka.sasl_mechanism, "
            "kafka.security_protocol and the port in kafka.brokers"
        )
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return f"{where} refuses the token: check kafka.sasl_oauth_scope and what audience the brokers expect"
    return f"{where} refuses the user or the password: check kafka.sasl_username and kafka.sasl_password"


def silence(kafka: KafkaSettings) -> str:
    """Nobody answered in time, and nothing was heard of why; who waits for a token waits longer than a call may."""
    where = f"no Kafka broker answers at {kafka.brokers}"
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return (
            f"{where}, or {_endpoint(kafka)} does not: check kafka.brokers, kafka.sasl_oauth_token_url and the network"
        )
    return f"{where}: check kafka.brokers and the network"


def _endpoint(kafka: KafkaSettings) -> str:
    parts = urlsplit(kafka.sasl_oauth_token_url or "")
    return f"the token endpoint {parts.scheme}://{parts.netloc}{parts.path}"


def _of_token(kafka: KafkaSettings, text: str) -> str:
    place = _endpoint(kafka)
    is_late = any(sign in text for sign in _LATE)
    if not is_late and any(sign in text for sign in _UNTRUSTED):
        return f"{place} can't be trusted over TLS: check kafka.sasl_oauth_ca_file and kafka.sasl_oauth_token_url"
    if is_late or any(sign in text for sign in _UNREACHED):
        return f"{place} does not answer: check kafka.sasl_oauth_token_url and the network"
    return (
        f"{place} gives no token: check kafka.sasl_oauth_client_id, kafka.sasl_oauth_client_secret and "
        "kafka.sasl_oauth_scope"
    )
