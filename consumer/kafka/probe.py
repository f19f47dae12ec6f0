"""A look at a broker's port with TLS of our own: the client says that a certificate fails, and not what of it."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from consumer.kafka.causes import no_tls, untrusted
from consumer.settings import KafkaSettings

PROBE_S: Final = 2.0


def look(kafka: KafkaSettings) -> str | None:
    """What is wrong with TLS at the first address that answers, in a sentence; None when nothing is, or nobody answers.

    Nothing is sent but a handshake. Takes up to `PROBE_S` an address.
    """
    for address in kafka.brokers.split(","):
        host, _, port = address.removeprefix("SSL://").rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), PROBE_S) as connection:
                return _shake(kafka, connection, host.strip("[]"))
        except (OSError, ValueError):
            continue
    return None


def _shake(kafka: KafkaSettings, connection: socket.socket, host: str) -> str | None:
    expects_tls = kafka.security_protocol.endswith("ssl")
    context = ssl.create_default_context(cafile=kafka.ssl_ca_file and str(kafka.ssl_ca_file))
    try:
        with context.wrap_socket(connection, server_hostname=host):
            spoken = True
    except ssl.SSLCertVerificationError as error:
        if expects_tls:
            return untrusted(kafka, error.verify_message.rstrip("."))
        spoken = True
    except (ssl.SSLError, ConnectionError):
        spoken = False
    where = f"Kafka at {kafka.brokers}"
    if spoken and not expects_tls:
        return f"{where} speaks TLS there: set kafka.security_protocol (now {kafka.security_protocol}) to one with ssl"
    if not spoken and expects_tls:
        return no_tls(kafka)
    if spoken and kafka.security_protocol == "ssl":
        return (
            f"{where} hangs up after TLS: it may want SASL, check kafka.security_protocol and the port in kafka.brokers"
        )
    return None
