"""Whose a proof's things are: a run's id, and what its topics, group, ids and keys are called."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from consumer.settings import Settings, TopicSettings
from consumer.settings_source import variable
from features.errors import ConfigError

PREFIX: Final = "fraudline-prove-"
_RUN: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Run:
    """One proof. Everything that it makes begins with `prefix`."""

    run: str

    @property
    def prefix(self) -> str:
        """What topics, the group, transactional ids and keys begin with."""
        return f"{PREFIX}{self.run}"

    def topic(self, role: str) -> str:
        """The topic of a role."""
        return f"{self.prefix}.{role.replace('_', '-')}"

    def owns(self, name: str) -> bool:
        """Whether a topic is called as those of this run are. Whether it is its own, its mark says."""
        return name.startswith(f"{self.prefix}.")


def new_run() -> Run:
    """A run that nobody has had."""
    return Run(secrets.token_hex(6))


def known_run(text: str) -> Run:
    """The run that a report or a message named. Raises ConfigError."""
    run = text.removeprefix(PREFIX)
    if not _RUN.fullmatch(run):
        raise ConfigError("--clean takes the id of a run: twelve digits and letters from a to f, as it was printed.")
    return Run(run)


def settings_of(run: Run, settings: Settings) -> Settings:
    """The deployment's settings, under the run's own names.

    Nothing outside of them is written: no challenger may be rolled back in a registry, and nothing is audited.
    """
    topics = TopicSettings(**{role: run.topic(role) for role in TopicSettings.model_fields})
    return settings.model_copy(
        update={
            "topics": topics,
            "kafka": settings.kafka.model_copy(update={"group_id": run.prefix, "transactional_id": f"{run.prefix}-a"}),
            "store": settings.store.model_copy(update={"namespace": run.prefix, "allow_cold_state": False}),
            "challenger": settings.challenger.model_copy(update={"enabled": False}),
            "audit": settings.audit.model_copy(update={"enabled": False}),
        }
    )


def environment_of(run: Run, settings: Settings, around: Mapping[str, str], replica: str) -> dict[str, str]:
    """The environment in which `fraudline run` has these settings (`settings_of`), above whatever `around` says."""
    changes = {
        "kafka.group_id": settings.kafka.group_id,
        "kafka.transactional_id": f"{run.prefix}-{replica}",
        "store.namespace": settings.store.namespace,
        "store.allow_cold_state": "false",
        "challenger.enabled": "false",
        "audit.enabled": "false",
        "model.bundle": str(settings.model.bundle),
        "telemetry.host": "127.0.0.1",
        "telemetry.port": "0",
        "telemetry.log_level": "info",
        "telemetry.log_format": "json",
        **{f"topics.{role}": name for role, name in settings.topics},
    }
    return dict(around) | {variable(name): value for name, value in changes.items()}
