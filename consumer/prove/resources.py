"""What a proof makes on the user's Kafka and Redis, and removes: its own topics, group and keys, and nothing else.

Each topic begins with a mark that names the run, and so does one key of the namespace. What has the run's prefix and
was there before is refused; what is removed is what was made, or what has the mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from consumer.kafka.admin import KafkaAdmin
from consumer.prove.names import PREFIX, Run
from consumer.settings import KafkaSettings, Settings
from consumer.topics import Options, declared, used_roles
from features.errors import FraudlineError
from features.profiles import load_catalog
from features.redis_store import Namespace, Tls

_MARKED_FOR_MS: Final = 45 * 86_400_000
MARK_KEY: Final = "prove"
"""The key of the run's namespace that says whose it is."""

_LEFT: Final = frozenset({None, "empty", "dead", "unknown"})


@dataclass(frozen=True, slots=True)
class Removal:
    """What is seen once everything was removed: all empty where nothing is left, and nothing else is gone.

    Attributes:
        left: topics, keys or groups of the run that are still there.
        lost: topics of others that were there before the run and no longer are; other proofs' aside.
        problems: what could not be removed, or looked at, in a sentence each.
        topics, keys: how many were removed.
        other_keys: how many keys others had on the same servers before and after, where the user may ask.
    """

    left: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    topics: int = 0
    keys: int = 0
    other_keys: tuple[int | None, int | None] = (None, None)


class Resources:
    """The resources of one run. `settings` are those of the run (`names.settings_of`).

    `has_begun` once something may have been made: before that nothing is there to be removed or looked for.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        """Connect lazily. Raises ConfigError: an address can't be used."""
        self._run, self._settings = run, settings
        self._made: list[str] = []
        self._has_claimed = False
        self.has_begun = False
        self._before: frozenset[str] = frozenset()
        self._other_keys: int | None = None
        self.admin = KafkaAdmin(settings.kafka)
        store = settings.store
        self.keys = Namespace(
            store.url.get_secret_value(),
            store.namespace,
            MARK_KEY,
            shards=store.shards,
            cluster=store.cluster,
            tls=Tls(store.tls_ca_file, store.tls_certificate_file, store.tls_key_file),
        )

    def make(self, real_payments: str, *, processors: int) -> None:
        """Make everything, with as many partitions as the deployment's own topic of payments has, if it is there.

        At least one for each of the processors, or one of them would have nothing to do.

        Raises FraudlineError: something with the run's prefix is there already, or a server does not allow it.
        """
        topics = self.admin.topics()
        self._refuse_taken(list(topics))
        self._before = frozenset(topics)
        self._other_keys = self.keys.other_keys(0)  # the run has none, or it was refused
        settings = self._settings
        wanted = declared(
            settings.topics,
            load_catalog(settings.features.catalog),
            Options(overrides={"lists": {"delete.retention.ms": str(_MARKED_FOR_MS)}}),  # or its mark would go sooner
            brokers=self.admin.brokers(),
            payments_partitions=max(topics[real_payments], processors) if real_payments in topics else None,
        )
        used = used_roles(settings)
        self.has_begun = True
        self.admin.create([each for each in wanted if each.role in used], self._made)
        self.admin.mark(self._made, self._run.run)
        self._has_claimed = self.keys.claim(self._run.run)
        if not self._has_claimed:
            raise _taken(f"the key {self._run.prefix}:{MARK_KEY}")

    def _refuse_taken(self, topics: list[str]) -> None:
        taken = next((name for name in sorted(topics) if name.startswith(self._run.prefix)), None)
        if taken is not None:
            raise _taken(f"the topic {taken}")
        if self.admin.group_state(self._run.prefix) is not None:
            raise _taken(f"the group {self._run.prefix}")
        if self.keys.size():
            raise _taken(f"a key that begins with {self._run.prefix}:")

    def remove(self) -> Removal:
        """Remove what was made, and look what is left. Never raises: what went wrong is in the result."""
        if not self.has_begun:
            return Removal()
        problems: list[str] = []
        keys, topics = 0, list(self._made)
        if self._has_claimed:
            try:
                keys = self.keys.remove()
            except FraudlineError as error:
                problems.append(str(error))
        try:
            if topics:
                self.admin.delete_group(self._run.prefix)
        except FraudlineError as error:
            problems.append(str(error))
        try:
            self.admin.delete_topics(topics)
        except FraudlineError as error:
            problems.append(str(error))
        left, lost, other_keys = [], [], None
        try:
            there = self.admin.topics().keys()
            left = sorted(name for name in there if self._run.owns(name))
            lost = sorted(name for name in self._before - there if not name.startswith(PREFIX))  # other proofs end too
            if own := self.keys.size():
                left.append(f"keys of {self._run.prefix}:")
            if self.admin.group_state(self._run.prefix) is not None:
                left.append(f"group {self._run.prefix}")
            other_keys = self.keys.other_keys(own)
        except FraudlineError as error:
            problems.append(str(error))
        return Removal(left, lost, problems, len(topics), keys, (self._other_keys, other_keys))

    def close(self) -> None:
        """Close the connections."""
        self.keys.close()


def _taken(what: str) -> FraudlineError:
    return FraudlineError(
        f"{what[0].upper()}{what[1:]} is there already, and this run did not make it: nothing was touched."
    )


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What `clean` removed, and what bears the run's name but not its mark."""

    topics: list[str]
    keys: int
    foreign: list[str]


def clean(run: Run, settings: Settings) -> Cleaned:
    """Remove what a run has left that did not come to it itself: only what has its mark.

    Raises FraudlineError: it still runs, or a server does not allow it.
    """
    resources = Resources(run, settings)
    admin, keys = resources.admin, resources.keys
    try:
        if admin.group_state(run.prefix) not in _LEFT:
            raise FraudlineError(_still_runs(run, settings.kafka))
        owners = admin.owners(sorted(name for name in admin.topics() if run.owns(name)))
        own = [name for name, owner in owners.items() if owner == run.run]
        foreign = [f"topic {name}" for name in owners if name not in own]
        removed = 0
        is_own = keys.owner() == run.run
        if is_own:
            removed = keys.remove()
        elif keys.size():
            foreign.append(f"keys that begin with {run.prefix}:")
        admin.delete_topics(own)
        if own or is_own:
            admin.delete_group(run.prefix)
        return Cleaned(own, removed, foreign)
    finally:
        resources.close()


def _still_runs(run: Run, kafka: KafkaSettings) -> str:
    return (
        f"Run {run.run} still has a processor in the group {run.prefix}: end it first; one that was killed is "
        f"forgotten after {kafka.session_timeout_ms / 1_000:g} s."
    )


def leftovers(settings: Settings) -> list[str]:
    """Ids of runs whose topics are there. Raises KafkaUnavailable."""
    found = (
        name.removeprefix(PREFIX).partition(".")[0]
        for name in KafkaAdmin(settings.kafka).topics()
        if name.startswith(PREFIX)
    )
    return sorted(set(found))
