"""Puts the list of checks together for one deployment. The only place of the doctor where clients are built."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path

from consumer import settings as reading
from consumer.app import store_owner
from consumer.doctor import environment, model, topics
from consumer.group_lag import GroupLag
from consumer.kafka.examine import KafkaExamination
from consumer.kafka.group import GroupReader
from consumer.kafka.logreader import LogReader
from consumer.kafka.topics import TopicAdmin
from consumer.settings import Settings
from consumer.survey import ahead
from consumer.topics import used_roles
from features.catalog import Catalog
from features.checkup import Check, Verdict, good
from features.errors import ConfigError
from features.profiles import load_catalog
from features.redis_store import Tls
from features.redis_store.examine import RedisExamination

LOADED = "settings.load"
SESSION = ("kafka.session",)
GROUP = ("kafka.group",)
BROKERS = "start the brokers, or correct kafka.brokers and the network on the way"
Look = Callable[[], Verdict]
READ = ("payments", "labels", "lists")


class Surgery:
    """One examination: clients are opened when a check first needs them, and all are closed by `close`."""

    def __init__(self, path: Path | None) -> None:
        """Read the settings; when they can't be used, everything that rests on them is skipped."""
        self._problem: ConfigError | None = None
        try:
            self.settings = reading.load(path)
        except ConfigError as error:
            self._problem, self.settings = error, Settings()
        self._kafka = KafkaExamination(self.settings.kafka)
        store = self.settings.store
        self._redis = RedisExamination(
            store.url.get_secret_value(),
            namespace=store.namespace,
            timeout_ms=store.timeout_ms,
            owner=store_owner(self.settings),
            catalog=lambda: self._catalog,
            shards=store.shards,
            cluster=store.cluster,
            tls=Tls(store.tls_ca_file, store.tls_certificate_file, store.tls_key_file),
        )
        self._found: GroupLag | None = None

    def checks(self) -> list[Check]:
        """All checks, in the order in which they are run and shown."""
        return [
            *self._settings_checks(),
            *self._kafka_checks(),
            *self._redis.checks(needs=(LOADED,)),
            self._check("redis.markers", self._markers, "see redis.namespace", ("redis.namespace", *GROUP)),
            *self._model_checks(),
            *self._machine_checks(),
        ]

    def close(self) -> None:
        """Release the clients; none is waited for longer than a few seconds."""
        self._kafka.close()
        self._redis.close()

    @cached_property
    def _catalog(self) -> Catalog:
        return load_catalog(self.settings.features.catalog)

    @cached_property
    def _admin(self) -> TopicAdmin:
        return TopicAdmin(self.settings.kafka)

    def _check(self, name: str, look: Look, mend: str, needs: tuple[str, ...] = (LOADED,)) -> Check:
        return Check(name, look, mend, needs, limit_s=self._limit_s)

    @property
    def _limit_s(self) -> float:
        return 10.0 + 3 * self.settings.kafka.request_timeout_ms / 1_000

    def _settings_checks(self) -> list[Check]:
        settings = self.settings
        return [
            Check(LOADED, self._load, "correct it; fraudline config show tells every setting and where it came from"),
            self._check("settings.sense", lambda: environment.sense(settings), "correct the settings"),
            self._check("settings.secrets", lambda: environment.secret_files(settings), "see the files' permissions"),
            self._check("settings.dashboard", lambda: environment.dashboard(settings), "correct dashboard.*"),
        ]

    def _kafka_checks(self) -> list[Check]:
        settings, kafka, check = self.settings, self._kafka, self._check
        roles = used_roles(settings)
        names = {role: str(getattr(settings.topics, role)) for role in roles}
        written = [name for role, name in names.items() if role not in READ]
        read = [names[role] for role in READ]
        return [
            check("kafka.reach", kafka.reach, BROKERS),
            check("kafka.session", kafka.session, "correct kafka.security_protocol, kafka.ssl_* and kafka.sasl_*",
                  ("kafka.reach",)),
            check("kafka.advertised", kafka.advertised, BROKERS, SESSION),
            check("kafka.version", kafka.version, BROKERS, SESSION),
            check("kafka.read", lambda: kafka.read(read), "see topics.*", SESSION),
            *self._delivery_checks(written, names["lists"]),
            check("kafka.group", self._group, "allow Read and Describe on the group", SESSION),
            check("kafka.partitions", lambda: topics.partitions(self._lag, names["payments"]), BROKERS, GROUP),
            check("kafka.clock", lambda: topics.clock(self._lag, names["payments"], _now_ms()), BROKERS, GROUP),
            check("kafka.latency", lambda: kafka.latency(names["payments"], settings.processing.budget_ms), BROKERS,
                  SESSION),
            *[check(f"topics.{role}", self._topic(role), "see kafka.session", SESSION) for role in roles],
        ]  # fmt: skip

    def _delivery_checks(self, written: list[str], lists: str) -> list[Check]:
        """What exactly-once needs is really tried; without transactions a try could not be taken back."""
        kafka, check = self._kafka, self._check
        if self.settings.processing.delivery != "exactly_once":
            return [check("kafka.write", lambda: kafka.may(written, "WRITE"), "see topics.*", SESSION)]
        begun = "kafka.transactions"
        transactional = "give the user Describe and Write on the transactional ids of this group"
        return [
            check(begun, kafka.transactions, transactional, SESSION),
            check("kafka.write", lambda: kafka.write(written), "see topics.*", (begun,)),
            check("kafka.offsets", lambda: kafka.offsets(lists), "allow Read on the group", (begun,)),
        ]

    def _model_checks(self) -> list[Check]:
        settings = self.settings
        mend = "mend what it says, or correct model.bundle or model.registry"
        return [
            self._check("model.catalog", lambda: model.catalog(settings), "correct features.catalog"),
            Check("model.bundle", lambda: model.model(settings, self._catalog), mend, ("model.catalog",), 90.0),
            Check("model.gpu", lambda: environment.gpu(settings), "see the driver, or set model.device = cpu",
                  (LOADED,), 60.0),
        ]  # fmt: skip

    def _machine_checks(self) -> list[Check]:
        settings = self.settings
        return [
            self._check("machine.cpu", lambda: environment.cpu(settings), "see the container's limits"),
            Check("machine.files", environment.files, "raise the limit (ulimit -n)"),
            self._check("machine.telemetry", lambda: environment.telemetry(settings), "change telemetry.port"),
        ]

    def _load(self) -> Verdict:
        if self._problem is not None:
            raise self._problem
        settings = self.settings
        return good(
            f"group {settings.kafka.group_id} at {settings.kafka.brokers}, namespace {settings.store.namespace}"
        )

    def _topic(self, role: str) -> Look:
        return lambda: topics.topic(self._admin, self.settings, self._catalog, role)

    @property
    def _lag(self) -> GroupLag:
        """How far the group is behind, asked once."""
        if self._found is None:
            names = self.settings.topics
            self._found = GroupReader(self.settings.kafka, [names.payments, names.labels]).look()
        return self._found

    def _group(self) -> Verdict:
        return topics.group(self._lag, _now_ms())

    def _markers(self) -> Verdict:
        settings, names = self.settings, self.settings.topics
        with closing(LogReader(settings.kafka, names.payments, names.labels)) as log:
            extents = log.extents()  # anew, and first: processors go on meanwhile
            positions = self._redis.positions()
            if ahead(extents, positions):  # as a processor does: only a newer look at the log can convict
                extents = log.extents()
        return topics.markers(extents, positions, allow_cold_state=settings.store.allow_cold_state)


def _now_ms() -> float:
    """This machine's clock, ms since the epoch."""
    return time.time() * 1_000
