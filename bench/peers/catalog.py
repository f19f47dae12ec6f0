"""The peers: one declaration each, of what there is to run and what it promises."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Variant = Literal["per_event", "own_batches", "our_batches", "exactly_once", "at_least_once"]

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ENVIRONMENTS: Final = ROOT / ".cache" / "peers"
VARIANTS: Final[dict[Variant, str]] = {
    "per_event": "one payment at a time",
    "own_batches": "batches of its own design",
    "our_batches": "given our batch function",
    "exactly_once": "exactly once",
    "at_least_once": "at least once",
}
"""In words; the last two are Fraudline's, or one payment at a time."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A stream processor, or a way to write one.

    Attributes:
        name: in tables and on the command line.
        folder: under `bench/peers/`; a variant is the module of its name in there.
        title: its name in full.
        package: the distribution whose version is shown.
        variants: what there is of it.
        delivery: what it promises after a crash, as it is set up here.
        own_pins: its framework can't be installed beside the versions that the project locks.
        at_home: it runs in the project's own environment.
    """

    name: str
    folder: str
    title: str
    package: str
    variants: tuple[Variant, ...]
    delivery: str
    own_pins: bool = False
    at_home: bool = False

    @property
    def home(self) -> Path:
        """Where its own files lie."""
        return HERE / self.folder

    @property
    def environment(self) -> Path:
        """Its virtual environment; made by `bench.peers.setup` unless it is `at_home`."""
        return Path(sys.prefix) if self.at_home else ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.environment / "bin" / "python"

    @property
    def requirements(self) -> Path:
        """What its environment holds: hashed pins."""
        return self.home / "requirements.txt"

    @property
    def runs_ours(self) -> bool:
        """Whether its environment needs the project's dependencies."""
        return "our_batches" in self.variants

    @property
    def version(self) -> str:
        """Of its package, as it is locked; of the project itself for what runs at home."""
        if self.at_home:
            return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
        found = re.search(rf"^{re.escape(self.package)}==([^\s;\\]+)", self.requirements.read_text(), re.MULTILINE)
        return found[1] if found else "unknown"

    def module(self, variant: Variant) -> str:
        """What `python -m` runs."""
        return f"bench.peers.{self.folder}.{variant}"


PEERS: Final = (
    Peer(
        name="kafka-python",
        folder="naive_kafka_python",
        title="naive loop on kafka-python",
        package="kafka-python",
        variants=("per_event",),
        delivery="nothing: offsets are committed in the background, wherever the decisions are by then",
    ),
    Peer(
        name="confluent",
        folder="naive_confluent",
        title="naive loop done well, on confluent-kafka",
        package="confluent-kafka",
        variants=("per_event", "own_batches", "our_batches"),
        delivery="nothing one at a time, as kafka-python; in batches at least once: flushed, then committed",
    ),
    Peer(
        name="quix",
        folder="quix",
        title="Quix Streams",
        package="quixstreams",
        variants=("per_event", "own_batches", "our_batches", "exactly_once"),
        delivery="at least once: a checkpoint flushes decisions, then commits offsets; or both in a transaction",
        own_pins=True,
    ),
    Peer(
        name="faust",
        folder="faust_streaming",
        title="Faust (faust-streaming)",
        package="faust-streaming",
        variants=("per_event", "own_batches", "our_batches", "exactly_once"),
        delivery="at least once: offsets of acknowledged payments are committed in the background; or transactions",
        own_pins=True,
    ),
    Peer(
        name="bytewax",
        folder="bytewax_flow",
        title="Bytewax",
        package="bytewax",
        variants=("per_event", "own_batches", "our_batches"),
        delivery="at least once: offsets are kept in its recovery store, an epoch at a time",
    ),
    Peer(
        name="flink",
        folder="flink",
        title="PyFlink with Flink's Kafka connector",
        package="apache-flink",
        variants=("per_event", "own_batches", "our_batches"),
        delivery="at least once, by checkpoints a second apart",
        own_pins=True,
    ),
)


FRAUDLINE: Final = Peer(
    name="fraudline",
    folder="fraudline",
    title="Fraudline",
    package="fraudline",
    variants=("exactly_once", "at_least_once"),
    delivery="exactly once, or at least once",
    at_home=True,
)
EVERYBODY: Final = (FRAUDLINE, *PEERS)


def named(name: str) -> Peer:
    """The peer of this name. Raises SystemExit."""
    for peer in EVERYBODY:
        if peer.name == name:
            return peer
    message = f"There is no peer {name!r}; there are {', '.join(peer.name for peer in EVERYBODY)}."
    raise SystemExit(message)
