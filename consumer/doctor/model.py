"""The model that decides: does it load, is it what was promoted, does it fit the catalog."""

from __future__ import annotations

from pathlib import Path

from consumer.settings import Settings
from consumer.trust import trust_of
from features.catalog import Catalog
from features.checkup import Verdict, bad, doubtful, good
from features.errors import BundleError
from features.profiles import load_catalog
from models.bundle import load
from models.registry import Registry
from models.signature import SHOWN, Trust


def catalog(settings: Settings) -> Verdict:
    """Whether the features can be computed."""
    found = load_catalog(settings.features.catalog)
    return good(f"{settings.features.catalog}: {len(found.names)} features over {len(found.logged)} entities")


def model(settings: Settings, catalog: Catalog) -> Verdict:
    """The bundle, or the registry's champion: digests, fit, and golden rows in a process of their own."""
    trust = trust_of(settings.model)
    if settings.model.registry is None:
        return good(_loaded(settings.model.bundle, catalog, trust))
    registry = Registry(settings.model.registry)
    standing = registry.standing("champion")
    if standing.current is None:
        return bad(f"{registry.url} has no champion", "make one with fraudline model promote")
    try:
        with registry.bundle(standing.current.bundle) as path:
            return good(f"champion of {registry.url}: {_loaded(path, catalog, trust, standing.current.digest)}")
    except BundleError as error:
        if not standing.earlier:
            raise
        return doubtful(
            f"the champion can't be used ({str(error).rstrip('.')}), so a processor that starts takes an earlier one",
            "promote a sound bundle, or fraudline model rollback",
        )


def _loaded(path: Path, catalog: Catalog, trust: Trust, digest: str | None = None) -> str:
    bundle = load(path, catalog, trust)
    if digest is not None and bundle.digest != digest:
        raise BundleError(f"{path} is not the bundle that was promoted")
    manifest = bundle.manifest
    signed = f", signed by the key {bundle.signed_by[:SHOWN]}" if bundle.signed_by else ""
    return (
        f"{manifest.name} {manifest.version}, digest {bundle.digest[:12]}, is whole, fits the catalog, and scores its "
        f"golden rows as it did when it was made{signed}"
    )
