"""Loads bundles for a processor, and follows the registry: who is to judge now, verified before it may.

The registry is asked every `model.poll_s` seconds, on a thread of its own. A bundle that it newly names is copied,
verified, tried in a child process, loaded and warmed up beside the one that decides; only then is it named to the
pipeline, which takes it between two batches. Whatever fails on the way, the old one stays.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from consumer.canary import Canary
from consumer.judge import Brain, LineUp, Model, Trial
from consumer.records import Digests, ModelRef
from consumer.settings import Settings
from consumer.telemetry import Telemetry
from consumer.trust import trust_of
from features.catalog import DEFAULT, Catalog
from features.errors import BundleError, FraudlineError, RegistryUnavailable
from models.bundle import load
from models.explain import Explainer
from models.gpu import NoRoom
from models.registry import Promotion, Registry, Standing
from models.score import Scorer
from models.signature import ANYBODY, Trust

_LOG: Final = structlog.get_logger("model")
SLICE_S: Final = 0.0002


def load_model(
    path: Path,
    *,
    device: str,
    threads: int,
    compiled: bool = True,
    catalog: Catalog = DEFAULT,
    digest: str | None = None,
    trust: Trust = ANYBODY,
) -> Model:
    """Verify a bundle, load it for the catalog and warm it up.

    Raises:
        BundleError: it can't be used, is not the one of `digest`, or not signed as `trust` asks.
        ConfigError: the device can't be used here.
    """
    bundle = load(path, catalog, trust)
    if digest is not None and bundle.digest != digest:
        raise BundleError(f"{path} is not the bundle that was promoted; promote it again.")
    scorer = Scorer(bundle, device=device, threads=threads, compiled=compiled)
    scorer.warm_up()
    explainer = Explainer(bundle, catalog, device=device, threads=threads, compiled=compiled)
    explainer.warm_up()
    return Model(
        ModelRef(bundle.manifest.name, bundle.manifest.version, bundle.digest),
        Digests(bundle=bundle.digest, catalog=bundle.manifest.catalog_fingerprint, policy=bundle.policy.digest),
        Brain(scorer, bundle.policy, explainer.explain, explainer.clear),
        device,
        catalog.only(bundle.manifest.features),
        bundle.manifest.reference,
        bundle.signed_by,
    )


@contextmanager
def _yielding() -> Iterator[None]:
    """Load in slices so short that the pipeline, which gives up the interpreter many times a batch, gets it back."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SLICE_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _give_memory_back() -> None:
    """Return what loading, and the model that gave way, have freed: the allocator would keep it, in pieces.

    Fourteen promotions leave less than 1 MiB so, and 11 where it is done before the old model is let go. Elsewhere than
    on glibc there is nothing to call.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class ModelLoader:
    """Gives a processor its line-up. `current` is who is to judge now; safe from any thread."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        telemetry: Telemetry,
        rolled_back: Callable[[ModelRef, str], None] = lambda _model, _reason: None,
    ) -> None:
        """Load the first champion: the settings' bundle, or the registry's champion.

        A champion of the registry that can't be used gives way to the one before it: a worker that starts after a
        promotion went wrong decides with what the others still have. `rolled_back` hears of each canary that this
        process ended, and why, on the thread that follows the registry; it must not wait.

        Raises:
            BundleError: none can be used.
            ConfigError, RegistryUnavailable: the settings name what is not there, or no key.
        """
        self._options, self._trial_options, self._catalog = settings.model, settings.challenger, catalog
        self._trust = trust_of(settings.model)
        self._telemetry, self._rolled_back = telemetry, rolled_back
        self._told: tuple[str, int] | None = None
        self._registry = Registry(self._options.registry) if self._options.registry else None
        self._refused: set[tuple[str, int]] = set()
        self._reported: str | None = None
        self._freed = False  # something, since the last look
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="models")
        telemetry.registry_up.set(1)
        if self._registry is None:
            self._current = LineUp(self._loaded(self._options.bundle))
            return
        self._current = LineUp(self._first(self._registry))
        if self._trial_options.enabled:
            self._take_challenger(self._registry)

    def current(self) -> LineUp:
        """Who is to judge now."""
        return self._current

    def start(self) -> None:
        """Follow the registry from now on, if there is one."""
        if self._registry is not None:
            self._thread.start()

    def stop(self) -> None:
        """Follow no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * self._options.poll_s)

    def look(self) -> None:
        """Ask the registry once, and take what it newly names. Never raises."""
        if self._registry is None:
            return
        if self._freed:  # by the look before, and by the pipeline, which lets go of the old model with its next batch
            self._freed = False
            _give_memory_back()
        try:
            self._take_champion(self._registry)
            if self._trial_options.enabled:
                self._take_challenger(self._registry)
            self._telemetry.registry_up.set(1)
        except RegistryUnavailable as error:
            self._telemetry.registry_up.set(0)
            _LOG.warning("registry_unavailable", error=str(error))
        except Exception:  # nothing that a bundle or a registry does may end this thread
            _LOG.exception("registry_not_followed")

    def _follow(self) -> None:
        while not self._stopping.wait(self._options.poll_s):
            self.look()

    def _first(self, registry: Registry) -> Model:
        standing = registry.standing("champion")
        if standing.current is None:
            raise BundleError(f"{registry.url} has no champion; make one with fraudline model promote.")
        for promotion in (standing.current, *standing.earlier):
            model = self._fetched(registry, promotion, "champion")
            if model is not None:
                return model
        raise BundleError(f"No champion of {registry.url} can be used; the log says why, promote a sound one.")

    def _take_champion(self, registry: Registry) -> None:
        standing = self._standing(registry, "champion")
        promotion = None if standing is None else standing.current
        if promotion is None or promotion.digest == self._current.champion.reference.digest:
            return
        model = self._fetched(registry, promotion, "champion")
        if model is not None:
            self._current = LineUp(model, self._current.challenger)

    def _take_challenger(self, registry: Registry) -> None:
        standing = self._standing(registry, "challenger")
        if standing is None:
            return
        trial, promotion = self._current.challenger, standing.current
        if promotion is None:
            if trial is not None:
                self._current = LineUp(self._current.champion)
                self._freed = True
                _LOG.info("challenger_withdrawn", model=trial.model.reference.version)
            return
        known = None if trial is None else (trial.canary.digest, trial.canary.promoted_ms)
        if known != (promotion.digest, promotion.at_ms):
            model = self._fetched(registry, promotion, "challenger")
            if model is None:
                return
            trial = Trial(model, Canary(self._trial_options, promotion.digest, promotion.at_ms))
            self._current = LineUp(self._current.champion, trial)
            _LOG.info("challenger_joins", model=promotion.version, digest=promotion.digest)
        if trial is not None:
            self._settle_canary(registry, trial, standing)

    def _settle_canary(self, registry: Registry, trial: Trial, standing: Standing) -> None:
        """A rollback here is told to all, and one elsewhere holds here."""
        canary, told = trial.canary, standing.stopped
        if told is not None and told.digest == canary.digest and told.at_ms >= canary.promoted_ms:
            if canary.stop(told.reason):
                _LOG.error("canary_rolled_back_elsewhere", reason=told.reason, model=trial.model.reference.version)
        elif canary.stopped is not None:
            if self._told != (canary.digest, canary.promoted_ms):  # the registry may have to be told again
                self._told = canary.digest, canary.promoted_ms
                self._rolled_back(trial.model.reference, canary.stopped)
            registry.stop(canary.digest, canary.stopped)

    def _standing(self, registry: Registry, role: str) -> Standing | None:
        """Who has a role; None, told once, where its file is damaged."""
        try:
            standing = registry.standing("champion" if role == "champion" else "challenger")
        except BundleError as error:
            if self._reported != str(error):
                self._reported = str(error)
                self._refuse(role, str(error))
            return None
        return standing

    def _fetched(self, registry: Registry, promotion: Promotion, role: str) -> Model | None:
        """A promoted bundle, verified and warmed up; None for one that is refused. Each promotion is tried once."""
        key = promotion.digest, promotion.at_ms
        if key in self._refused:
            return None
        try:
            with registry.bundle(promotion.bundle) as path, _yielding():
                self._freed = True
                return self._loaded(path, promotion.digest)
        except RegistryUnavailable:
            raise
        except NoRoom as error:  # there may be some at the next look
            self._refuse(role, str(error), promotion)
            return None
        except FraudlineError as error:
            why = str(error)
        except Exception as error:  # a library that chokes on the bundle in a way that nobody foresaw
            why = f"{type(error).__name__}: {error}"
        self._refused.add(key)
        self._refuse(role, why, promotion)
        return None

    def _refuse(self, role: str, why: str, promotion: Promotion | None = None) -> None:
        bundle = "" if promotion is None else promotion.bundle
        _LOG.error("model_refused", role=role, bundle=bundle, error=why)
        self._telemetry.model_swaps["refused"].inc()

    def _loaded(self, path: Path, digest: str | None = None) -> Model:
        options = self._options
        return load_model(
            path,
            device=options.device,
            threads=options.threads,
            compiled=options.compiled,
            catalog=self._catalog,
            digest=digest,
            trust=self._trust,
        )
