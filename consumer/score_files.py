"""`fraudline score --payments PATH --out FILE`: decide a whole history, on all cores, in bounded memory.

The features are those that every payment would have met online: labels are known from their `labelled_at` on, never
earlier. What production would not decide is left out: repeated payments, and rows that are refused.

The work is done in a folder, in steps that are kept there: topics that are read (`consumer.score_topic`), the table of
features, and the decisions, part by part. A run with the same folder goes on behind what is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from consumer.decode import looks_like_card_number
from consumer.score_part import FORMATS, Model, Part, joined, parts_of, score_part
from features.catalog import Catalog
from features.errors import ConfigError
from features.event import Label, Payment
from features.history import local
from features.history.files import check_output, sources
from features.history.job import Job, Outcome, Progress
from features.history.mapping import AS_NAMED, Columns
from features.history.quarantine import Quarantine
from models.bundle import Bundle, load
from models.signature import ANYBODY, Trust

STATE: Final = "state.json"
MODE: Final = 0o700  # what was read from topics may hold what will be refused
GROUPS: Final = 4  # row groups of a part: about 262,000 payments


@dataclass(slots=True)
class Summary:
    """How many of what."""

    payments: int = 0
    repeated: int = 0
    labels: int = 0
    approve: int = 0
    review: int = 0
    block: int = 0
    refused_payments: dict[str, int] = field(default_factory=dict)
    refused_labels: dict[str, int] = field(default_factory=dict)
    sent: int | None = None

    def with_refused(self, more: Mapping[str, int]) -> Summary:
        """The same, with what was refused before it came to a file."""
        both = Counter(self.refused_payments) + Counter(more)
        return replace(self, refused_payments=dict(both))


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be decided.

    Attributes:
        bundle: by which models and rules.
        payments: in log order: Parquet, CSV or JSON lines; a file, or a folder of such files.
        labels: likewise, in any order; None for none.
        out: `.parquet`, `.csv` or `.jsonl`; with Spark a folder.
        threads: that compute.
        memory_mb: for features.
        skip_bad: leave out rows that are no record.
        rejects: where such rows are put aside, with the reason; then they are left out too.
        mapped: which columns of the files are which fields, where they have other names.
        work: where what is done is kept until all is; None for a folder that is removed in any case.
        into: brokers and topic that decisions go to in place of `out`.
        trust: whose signature on the bundle counts, and whether there has to be one.
    """

    bundle: Path
    payments: Path
    labels: Path | None
    out: Path
    threads: int = 1
    memory_mb: int = 1_024
    skip_bad: bool = False
    rejects: Path | None = None
    mapped: Columns = AS_NAMED
    work: Path | None = None
    into: str | None = None
    trust: Trust = ANYBODY

    def check(self) -> None:
        """Refuse what would replace an input, or is no format. Raises ConfigError."""
        self.check_places()
        if self.out.suffix not in FORMATS:
            raise ConfigError(f"{self.out} must end in .parquet, .csv or .jsonl.")

    def check_places(self) -> None:
        """Refuse to write what is read, or two things to one place. Raises ConfigError."""
        check_output(self.out, self.payments, self.labels)
        if self.rejects is not None:
            check_output(self.rejects, self.payments, self.labels)
            if self.rejects.absolute().resolve() == self.out.absolute().resolve():
                raise ConfigError(f"{self.out} can't take both decisions and rejected rows; give --rejects another.")

    def identity(self, bundle: Bundle) -> dict[str, Any]:
        """What work that is kept must be of, to be gone on with."""
        files = sources(self.payments, Payment, self.mapped)
        files += [] if self.labels is None else sources(self.labels, Label, self.mapped)
        seen = [(str(each.path.absolute()), each.path.stat().st_size, each.path.stat().st_mtime_ns) for each in files]
        options = {"map": repr(self.mapped), "skip_bad": self.skip_bad, "rejects": self.rejects and str(self.rejects)}
        return {
            "files": [list(each) for each in seen],
            "bundle": bundle.digest,
            "out": self.into or self.out.suffix,
            **options,
        }

    def job(
        self, table: Path, bundle: Bundle, catalog: Catalog, quarantine: Quarantine | None, progress: Progress
    ) -> Job:
        """The features that are needed, as a table."""
        return Job(
            self.payments,
            self.labels,
            table,
            looks_like_card_number,
            catalog=catalog.only(bundle.manifest.features),
            memory_mb=self.memory_mb,
            jobs=self.threads,
            keep=tuple(sorted(bundle.policy.fields)),
            skip_bad=self.skip_bad,
            progress=progress,
            mapped=self.mapped,
            quarantine=quarantine,
        )


class Work:
    """A folder with what is done so far, and a file that says what that is."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Go on from what is there. Raises ConfigError where that is of another task, or can't be read."""
        self.folder, self._path = folder, folder / STATE
        self.known: dict[str, Any] = {"identity": identity}
        try:
            folder.mkdir(MODE, parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise ConfigError(f"{folder} can't be used ({error.strerror}); give another --work.") from None
        try:
            self._go_on(identity)
        except BaseException:
            self.release()
            raise

    def _go_on(self, identity: dict[str, Any]) -> None:
        folder = self.folder
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = json.loads(self._path.read_bytes()) if self._path.exists() else None
            strange = known is None and any(folder.iterdir())
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by another run; wait for it, or give another --work.") from None
        except (OSError, ValueError):
            raise ConfigError(f"{folder} holds no work that can be read; remove it, or give another --work.") from None
        if strange:
            raise ConfigError(f"{folder} holds something else than work of fraudline score; give another --work.")
        if known is None:
            self.note()
            return
        if known.get("identity") != identity:
            before = known.get("identity", {})
            what = ", ".join(name for name in identity if before.get(name) != identity[name])
            raise ConfigError(f"{folder} holds work with another {what}; remove it, or give another --work.")
        self.known = known

    def note(self, **more: Any) -> None:
        """Keep what else is done. Raises ConfigError when it can't be written."""
        self.known |= more
        beside = self._path.with_name(f".{STATE}")
        try:
            with beside.open("w") as file:
                json.dump(self.known, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            raise ConfigError(f"{self.folder} can't be written ({error.strerror}).") from None

    def clear(self) -> None:
        """All is done: nothing has to be kept any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Let others go on with it."""
        os.close(self._lock)


def score_files(
    asked: Asked,
    catalog: Catalog,
    progress: Progress = lambda _stage, _share: None,
    then: Callable[[list[Path], Work], int] | None = None,
) -> Summary:
    """Write a decision for every payment of a history to `out`, which appears when it is complete.

    `then` takes the parts in place of `out`, and says how many decisions it sent.

    Raises:
        BundleError: the bundle can't be used.
        ConfigError: a file can't be read or has bad rows, or the output can't be written.
    """
    asked.check()
    bundle = load(asked.bundle, catalog, asked.trust)
    with _work(asked, bundle) as work:
        built = _features(asked, bundle, catalog, work, progress)
        summary = Summary(**{name: built[name] for name in ("payments", "repeated", "labels")})
        summary.refused_payments, summary.refused_labels = built["refused_payments"], built["refused_labels"]
        model = Model(asked.bundle, bundle.digest, catalog, asked.trust)
        parts = parts_of([work.folder / "features.parquet"], work.folder, asked.out.suffix, GROUPS)
        for counts in _decided(parts, model, work, asked.threads, progress):
            for name, count in counts.items():
                setattr(summary, name, getattr(summary, name) + count)
        places = [part.out for part in parts]
        if then is not None:
            summary.sent = then(places, work)
        else:
            with local.beside(asked.out) as folder:
                joined(places, folder / "complete", asked.out.suffix)
                (folder / "complete").replace(asked.out)
    progress("done", 1.0)
    return summary


@contextmanager
def _work(asked: Asked, bundle: Bundle) -> Iterator[Work]:
    if asked.work is None:
        with local.beside(asked.out) as folder:
            work = Work(folder / "work", asked.identity(bundle))
            try:
                yield work
            finally:
                work.release()
        return
    work = Work(asked.work, asked.identity(bundle))
    try:
        yield work
        work.clear()
    finally:
        work.release()


def _features(asked: Asked, bundle: Bundle, catalog: Catalog, work: Work, progress: Progress) -> dict[str, Any]:
    """Build the table of features, unless it is there; the counts of it."""
    if "built" in work.known:
        built: dict[str, Any] = work.known["built"]
        return built
    quarantine = None if asked.rejects is None else Quarantine(asked.rejects)
    try:
        job = asked.job(
            work.folder / "features.parquet",
            bundle,
            catalog,
            quarantine,
            lambda stage, share: progress(stage, 0.7 * share),
        )
        outcome: Outcome = local.build(job)
    finally:
        if quarantine is not None:
            quarantine.close()
    work.note(built=asdict(outcome))
    return asdict(outcome)


def _decided(parts: list[Part], model: Model, work: Work, threads: int, progress: Progress) -> Iterator[dict[str, int]]:
    """The counts of all parts, of which some may have been decided before."""
    done: dict[str, dict[str, int]] = work.known.setdefault("parts", {})
    yield from done.values()
    left = [part for part in parts if part.out.name not in done]
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(score_part, part, model): part for part in left}
        try:
            for future in as_completed(futures):
                done[futures[future].out.name] = future.result()
                work.note(parts=done)
                progress("scoring", 0.7 + 0.3 * len(done) / len(parts))
                yield done[futures[future].out.name]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
