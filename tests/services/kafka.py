"""A real Apache Kafka for tests and benches: KRaft, one node, one JVM, its jars resolved by Maven."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from tests.services.process import Service, ServiceError

KAFKA_VERSION = "4.1.0"
MAVEN_DEADLINE_S = 900.0

QUICK_START = ("-XX:TieredStopAtLevel=1",)  # half the CPU at start: right for tests
STEADY = ()  # every optimisation of the JVM: right for benches

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fraudline</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

# Small and quick, and nothing that would hide a fault: low floors for the time-outs that tests set on their clients,
# an expired transaction is aborted within half a second, and a killed broker may come back without waiting for its
# former self to be forgotten. Simulated payments are old, so no record is ever deleted for its age.
_SERVER = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{proxied}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},PROXIED://127.0.0.1:{front}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
transaction.max.timeout.ms=60000
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
background.threads=2
"""


def missing() -> str | None:
    """Why Kafka can't be started here, in one sentence; None when it can."""
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not found on PATH." if absent else None


def class_path() -> str:
    """Kafka's jars as a Java class path, resolved by Maven once and remembered for all processes of this user.

    Raises:
        ServiceError: Maven could not resolve them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudline" / f"kafka-{KAFKA_VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    remembered = cache / "class-path.txt"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if remembered.exists():
            jars = remembered.read_text().strip()
            if all(Path(jar).is_file() for jar in jars.split(os.pathsep)):
                return jars
        return _resolve(cache, remembered)


def _resolve(cache: Path, remembered: Path) -> str:
    pom, fresh = cache / "pom.xml", cache / "class-path.new"
    pom.write_text(_POM)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={fresh}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_DEADLINE_S, check=False)
    if done.returncode != 0 or not fresh.exists():
        message = f"Maven could not resolve Apache Kafka {KAFKA_VERSION}; it said:\n{done.stdout[-3000:]}"
        raise ServiceError(message)
    jars = fresh.read_text().strip()
    fresh.replace(remembered)
    return jars


class KafkaBroker(Service):
    """Apache Kafka on free loopback ports, with its data in a temporary directory.

    Beside the listener that `bootstrap` names it has one that leads through whatever listens at `front`: see
    `tests.services.proxy`. Whom nobody proxies is refused there.

    Args:
        java_options: flags of the JVM: `QUICK_START` for tests, `STEADY` for benches.
        config: broker settings that are added to, or replace, the built-in ones.
    """

    name = "kafka"
    port_count = 3

    def __init__(self, *, java_options: Sequence[str] = QUICK_START, config: Mapping[str, str] | None = None) -> None:
        self._jars = class_path()
        self._java_options = tuple(java_options)
        self._config = dict(config or {})
        self._admin: AdminClient | None = None
        self.front = socket.socket()
        self.front.bind(("127.0.0.1", 0))  # held from now on, so that nobody else takes the port
        super().__init__()

    @property
    def bootstrap(self) -> str:
        """The broker's address for clients."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def admin(self) -> AdminClient:
        """An admin client of this broker; it outlives restarts, since the ports stay."""
        if self._admin is None:
            self._admin = AdminClient(
                {
                    "bootstrap.servers": self.bootstrap,
                    "reconnect.backoff.ms": 20,
                    "reconnect.backoff.max.ms": 200,
                    "log_level": 0,
                }
            )
        return self._admin

    def create_topics(self, partitions: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
        """Create topics (name to number of partitions) and wait until each can be written.

        Raises:
            confluent_kafka.KafkaException: the broker refused, for instance because a topic exists.
        """
        new = [NewTopic(name, count, 1, config=dict(config or {})) for name, count in partitions.items()]
        for future in self.admin.create_topics(new, operation_timeout=30.0, request_timeout=30.0).values():
            future.result()
        while not self._led(partitions):
            pass

    def limit_bytes(self, topic: str, limit: int | None) -> None:
        """Let a topic take batches of records up to a size, or with None up to the broker's own limit."""
        kind = AlterConfigOpType.DELETE if limit is None else AlterConfigOpType.SET
        entry = ConfigEntry("max.message.bytes", "" if limit is None else str(limit), incremental_operation=kind)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(30.0)

    def prepare(self) -> None:
        self._admin = None
        logs = self.data / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        settings = _SERVER.format(
            broker=self.ports[0],
            controller=self.ports[1],
            proxied=self.ports[2],
            front=self.front.getsockname()[1],
            logs=logs,
        )
        overrides = "".join(f"{key}={value}\n" for key, value in self._config.items())
        self._properties.write_text(settings + overrides)
        cluster_id = "-"
        while cluster_id.startswith("-"):  # which the tool would take for an option
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "--config", str(self._properties), "--cluster-id", cluster_id]
        done = subprocess.run([*self._java(*QUICK_START), *tool], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"Kafka's storage could not be formatted; the tool said:\n{done.stdout}{done.stderr}"
            raise ServiceError(message)

    def command(self) -> Sequence[str]:
        return [*self._java("-Xms256m", *self._java_options), "kafka.Kafka", str(self._properties)]

    def answers(self) -> bool:
        return self._led(())

    def close(self) -> None:
        super().close()
        self.front.close()
        self._admin = None

    @property
    def _properties(self) -> Path:
        return self.data / "server.properties"

    def _java(self, *options: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", *options, quiet, "-cp", self._jars]

    def _led(self, topics: Sequence[str] | Mapping[str, int]) -> bool:
        """Whether the broker takes part in its cluster, knows `topics`, and every partition has a leader."""
        try:
            metadata = self.admin.list_topics(timeout=1.0)
        except KafkaException:
            return False
        leaders = [part.leader for topic in metadata.topics.values() for part in topic.partitions.values()]
        return bool(metadata.brokers) and set(topics) <= set(metadata.topics) and min(leaders, default=1) >= 0
