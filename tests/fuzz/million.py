"""`python -m tests.fuzz.million --payments 1000000`: mutated payments through the real processor, Kafka and Redis.

Each record ends in one decision, one dead letter or as a counted duplicate, as a `read_committed` reader sees it; which
of them is told beforehand by the slow decoder of `tests.fuzz.decoding`. The processor is `fraudline run` in a process
of its own: it must live until it is told to end, and nothing that it says may hold a card number or a secret.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from confluent_kafka import Producer

from tests.fuzz.decoding import MAX_FUTURE_MS, slow
from tests.fuzz.outcomes import DEADLINE_S, PARTITIONS, Outcomes
from tests.fuzz.payments import SECRET, Sent, records
from tests.fuzz.tally import Tally
from tests.services import kafka as kafka_service
from tests.services import redis as redis_service
from tests.services.kafka import KafkaBroker
from tests.services.process import ServiceError, free_ports
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle
from tests.support.canaries import leaks

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-c", "from consumer.cli import main; main()", "run")
START_S: Final = 240.0  # code may have to be compiled first
_ROLES: Final = ("payments", "labels", "decisions", "alerts", "dead_letters", "journal", "lists")


def judge(kafka: KafkaBroker, redis_url: str, name: str, count: int, seed: int = 1) -> Tally:
    """Send `count` mutated payments through a processor; `name` is the prefix of its topics and of its namespace."""
    topics = {role: f"{name}.{role}" for role in _ROLES}
    kafka.create_topics(dict.fromkeys(topics.values(), PARTITIONS))
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fraudline-million-") as folder:
        bundle = Path(folder) / "bundle"
        make_bundle(bundle)
        with _processor(kafka.bootstrap, redis_url, name, topics, bundle, Path(folder) / "log") as (ask, end):
            _await_ready(ask)
            _send(kafka.bootstrap, topics["payments"], records(count, seed), tally)
            with closing(Outcomes(kafka.bootstrap, topics, tally)) as outcomes:
                outcomes.read_one_each(lambda: _duplicates(ask("/metrics")))
                for path in ("/metrics", "/readyz", "/drift"):
                    tally.told[path] = leaks(ask(path), (SECRET,))
                tally.told["the log"] = leaks(end(), (SECRET,))
                return outcomes.read_to_end()


def _await_ready(ask: Callable[[str], str]) -> None:
    deadline, pause = time.monotonic() + START_S, threading.Event()
    while "fraudline_assigned_partitions 4" not in ask("/metrics"):
        assert time.monotonic() < deadline, f"no partitions in {START_S:.0f} s"
        pause.wait(0.1)


def _send(brokers: str, topic: str, sent: Iterator[Sent], tally: Tally) -> None:
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "log_level": 0})
    for each in sent:
        fields = None if each.value is None else slow(each.value, label=False)
        future = fields is not None and fields["event_time"] > each.time_ms + MAX_FUTURE_MS
        told = None if fields is None or future else _identity(fields["card_id"], fields["event_id"])
        noted = _noting(tally, told)
        while True:
            try:
                producer.produce(
                    topic,
                    each.value,
                    each.key,
                    _partition(each.key),
                    on_delivery=noted,
                    timestamp=each.time_ms,
                    headers=each.headers,
                )
            except BufferError:
                producer.poll(0.05)
            else:
                break
        producer.poll(0)
    assert producer.flush(DEADLINE_S) == 0


def _noting(tally: Tally, told: bytes | None) -> Callable[[Any, Any], None]:
    def note(error: Any, message: Any) -> None:
        assert error is None, error
        at = (message.partition(), message.offset())
        if told is None:
            tally.bad.add(at)
        else:
            tally.good[at] = told

    return note


def _identity(card: str, event: str) -> bytes:
    return hashlib.blake2b(f"{len(card)}:{card}{event}".encode(), digest_size=8).digest()


def _partition(key: bytes | None) -> int:
    return crc32(key or b"") % PARTITIONS


def _duplicates(metrics: str) -> int:
    found = re.search(r"^fraudline_duplicates_total (\S+)$", metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0


@contextmanager
def _processor(
    brokers: str, redis_url: str, name: str, topics: dict[str, str], bundle: Path, log: Path
) -> Iterator[tuple[Callable[[str], str], Callable[[], str]]]:
    """`fraudline run`: how to ask its port, and how to end it, which tells all that it has said."""
    (port,) = free_ports(1)
    settings = {
        "KAFKA__BROKERS": brokers, "KAFKA__GROUP_ID": name, "STORE__URL": redis_url, "STORE__NAMESPACE": name,
        "STORE__TIMEOUT_MS": "1000", "PROCESSING__BUDGET_MS": "60000", "MODEL__BUNDLE": str(bundle),
        "TELEMETRY__PORT": str(port), "TELEMETRY__LOG_LEVEL": "debug", "TELEMETRY__LOG_FORMAT": "json",
        **{f"TOPICS__{role.upper()}": topic for role, topic in topics.items()},
    }  # fmt: skip
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    environment = outside | {f"FRAUDLINE_{name}": value for name, value in settings.items()}
    with log.open("wb") as said:
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)

    def ask(path: str) -> str:
        assert process.poll() is None, f"the processor has ended: {log.read_text()[-3_000:]}"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            return ""  # not yet
        finally:
            connection.close()

    def end() -> str:
        process.send_signal(signal.SIGTERM)
        text = f"{process.wait(DEADLINE_S)}"
        said = log.read_text()
        assert text == "0", f"the processor ended with status {text}: {said[-3_000:]}"
        levels = {json.loads(line)["level"] for line in said.splitlines() if line.startswith("{")}
        assert not levels & {"error", "critical"}, said[-3_000:]
        assert "Traceback" not in said
        return said

    try:
        yield ask, end
    except AssertionError as error:
        error.add_note(f"the processor said: {log.read_text()[-3_000:]}")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.million", description=__doc__.splitlines()[0])
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    if args.payments < 1:
        parser.error("--payments must be at least 1")
    for missing in (kafka_service.missing(), redis_service.missing()):
        if missing:
            raise SystemExit(f"{missing} Payments are sent through real services only.")
    begun = time.monotonic()
    try:
        with KafkaBroker() as kafka, RedisServer() as redis:
            tally = judge(kafka, redis.url, f"million-{args.seed}", args.payments, args.seed)
    except (AssertionError, ServiceError) as error:
        first, *rest = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
        print("\n".join([f"WRONG: {first}", *rest]), file=sys.stderr)
        return 1
    print(tally.summary(), f"{time.monotonic() - begun:.0f} s.")
    wrong = tally.wrong()
    for line in wrong[:20]:
        print(f"  WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
