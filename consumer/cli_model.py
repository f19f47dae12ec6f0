"""`fraudline model`: the bundles of a registry, and which of them decide."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli_audit import Actor, recorded
from consumer.cli_options import AsJson, ConfigFile, Mapped, columns_of
from consumer.cli_output import iso, print_json, print_mapping, print_table, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.registry import Registry

app = typer.Typer(help="Look at bundles, and say which of them decide.")

RegistryUrl = Annotated[
    str | None,
    typer.Option("--registry", metavar="URL", help="A directory or a URL of fsspec (default: model.registry)."),
]
BundleName = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A bundle's directory; or one of the registry: its name, version, role.")
]
CatalogName = Annotated[
    str | None,
    typer.Option("--catalog", metavar="NAME|FILE", help="A profile or a catalog file (default: features.catalog)."),
]


class RoleArgument(StrEnum):
    """What a bundle can be."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


RoleOption = Annotated[RoleArgument, typer.Option("--role", help="champion decides, challenger is tried beside it.")]


@app.command(name="list")
def list_bundles(*, registry: RegistryUrl = None, config: ConfigFile = None, as_json: AsJson = False) -> int:
    """Show the registry's bundles, and their roles."""
    known = _registry(registry, config)
    rows = []
    for entry in known.entries():
        manifest = entry.manifest
        ap = None if manifest is None else _metric(manifest, "ap")
        rows.append(
            (
                entry.bundle,
                ", ".join(entry.roles),
                None if manifest is None else iso(manifest.created_ms),
                None if manifest is None else len(manifest.features),
                ap if as_json or ap is None else f"{ap:.4f}",
                entry.problem,
            )
        )
    quality = "ap" if as_json else "ap, own test"  # each was judged on payments of its own: they can't be compared
    print_table(
        f"Models of {known.url}", ("bundle", "role", "made", "features", quality, "problem"), rows, as_json=as_json
    )
    return 0


@app.command()
def verify(
    bundle: BundleName,
    *,
    trusted_keys: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted-key",
            metavar="PUB.pem",
            help="It has to be signed by this key; repeatable (default: model.signature, model.trusted_keys).",
        ),
    ] = None,
    registry: RegistryUrl = None,
    catalog: CatalogName = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Check a bundle as the processor would before it decides; refuse it with the cause."""
    from consumer.trust import configured
    from models.bundle import load
    from models.signature import trust

    known = trust(trusted_keys, required=True) if trusted_keys else configured(config)
    with place_of(bundle, registry, config) as (path, _):
        loaded = load(path, catalog_of(catalog, config), known)
    facts = _facts(loaded.manifest, loaded.digest) | {"signed_by": loaded.signed_by}
    print_mapping(f"{bundle} can be used", facts, as_json=as_json)
    return 0


PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="The private key's password is in this file.")
]
PasswordVariable = Annotated[
    str | None, typer.Option("--password-env", metavar="VARIABLE", help="Or in this environment variable.")
]


@app.command()
def keygen(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where both halves of the key are put.")],
    password_file: PasswordFile = None,
    password_env: PasswordVariable = None,
    as_json: AsJson = False,
) -> int:
    """Make a key to sign bundles with: signing-key.pem, to be kept secret, and signing-key.pub.pem, to be trusted."""
    from models.signature import PRIVATE_KEY, PUBLIC_KEY, make_keys

    name = make_keys(out, _password(password_file, password_env))
    facts = {"key": name, "private": str(out / PRIVATE_KEY), "public": str(out / PUBLIC_KEY)}
    print_mapping("Made a key", facts, as_json=as_json)
    return 0


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.")],
    *,
    key: Annotated[Path, typer.Option(metavar="KEY.pem", help="The private key.")],
    password_file: PasswordFile = None,
    password_env: PasswordVariable = None,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Vouch for a bundle: its manifest is signed, which holds the digest of every file. Sign first, then promote."""
    from models.bundle import read_files
    from models.bundle_writer import sign as sign_bundle
    from models.manifest import SIGNATURE

    content, password = read_files(bundle), _password(password_file, password_env)
    subject = f"{content.manifest.name}@{content.manifest.version}"
    with recorded(config, "model.sign", subject, actor=actor, detail={"digest": content.digest}) as more:
        more["key"] = name = sign_bundle(bundle, key, password, content.digest)
    facts = {"digest": content.digest, "key": name, "signature": str(bundle / SIGNATURE)}
    print_mapping(f"Signed {bundle}, {subject}", facts, as_json=as_json)
    return 0


def _password(file: Path | None, variable: str | None) -> str | None:
    """A private key's password, never from the command line itself: others can read that. Raises ConfigError."""
    import os

    from consumer.settings_source import read_secret

    if file is not None and variable is not None:
        raise ConfigError("Give either --password-file or --password-env.")
    if variable is not None and not os.environ.get(variable):
        raise ConfigError(f"--password-env names {variable}, which is not set.")
    return os.environ[variable] if variable else None if file is None else read_secret(file, "--password-file")


@app.command()
def promote(
    bundle: BundleName,
    *,
    role: RoleOption = RoleArgument.CHAMPION,
    registry: RegistryUrl = None,
    catalog: CatalogName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Verify a bundle and give it a role; running processors take it within seconds."""
    from consumer.trust import configured
    from models.bundle import read_files

    known = _registry(registry, config)
    features, trust = catalog_of(catalog, config), configured(config)
    with place_of(bundle, registry, config) as (path, folder):
        content = read_files(path)
        manifest, digest = content.manifest, content.digest
        subject = f"{manifest.name}@{manifest.version}"
        detail = {"role": role.value, "digest": digest, "registry": known.url}
        with recorded(config, "model.promote", subject, actor=actor, detail=detail) as more:
            promotion = known.promote(path, role.value, features, known=folder, by=actor, expected=digest, trust=trust)
            more["bundle"] = promotion.bundle
    _print_standing(role, f"{promotion.bundle} is the {role.value} now", known, as_json=as_json)
    return 0


@app.command()
def rollback(
    *,
    role: RoleOption = RoleArgument.CHAMPION,
    registry: RegistryUrl = None,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Give a role back to the bundle that had it before."""
    known = _registry(registry, config)
    detail = {"registry": known.url, "from": _holder(known, role)}
    with recorded(config, "model.rollback", role.value, actor=actor, detail=detail) as more:
        promotion = known.rollback(role.value, by=actor)
        more |= {"bundle": promotion.bundle, "digest": promotion.digest}
    _print_standing(role, f"{promotion.bundle} is the {role.value} again", known, as_json=as_json)
    return 0


@app.command()
def withdraw(
    *, registry: RegistryUrl = None, actor: Actor = None, config: ConfigFile = None, as_json: AsJson = False
) -> int:
    """End the trial of the challenger."""
    known = _registry(registry, config)
    with recorded(config, "model.withdraw", "challenger", actor=actor, detail={"registry": known.url}) as more:
        promotion = known.withdraw("challenger")
        more |= {"bundle": promotion.bundle, "digest": promotion.digest}
    _print_standing(RoleArgument.CHALLENGER, f"{promotion.bundle} is no longer the challenger", known, as_json=as_json)
    return 0


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A bundle, as for verify.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The one to compare with it.")],
    *,
    registry: RegistryUrl = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Say how two bundles differ: features, measured quality, thresholds and rules, libraries."""
    from models.compare import difference

    with place_of(old, registry, config) as (old_path, _), place_of(new, registry, config) as (new_path, _):
        found = difference(old_path, new_path)
    if as_json:
        print_json([dict(zip(("what", "old", "new"), row, strict=True)) for row in found])
    else:
        print_table(f"From {old} to {new}", ("what", "old", "new"), found, as_json=False)
    return 0


@app.command()
def optimize(
    bundle: BundleName,
    *,
    payments: Annotated[
        Path, typer.Option(metavar="PATH", help="The history that it was trained on, and that goes on after it.")
    ],
    labels: Annotated[Path, typer.Option(metavar="PATH", help="Its labels.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the new bundles are put.")],
    techniques: Annotated[
        str, typer.Option(metavar="LIST", help="Some of prune, quantize, distill, compile; commas between.")
    ] = "prune,quantize,distill,compile",
    mapped: Mapped = None,
    student_trees: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Of the distilled model (default: a third of the original's, 10 to 60)."),
    ] = None,
    student_depth: Annotated[int, typer.Option(min=1, max=12, help="Their depth.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the student.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more than one pays on idle cores only.")] = 1,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for work; what is more waits in files.")] = 2_048,
    registry: RegistryUrl = None,
    catalog: CatalogName = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Make smaller and faster forms of a bundle, and show what each costs in quality and saves in time."""
    import msgspec

    from consumer.decode import looks_like_card_number
    from consumer.trust import configured
    from models.optimize import OptimizeOptions
    from models.optimize import optimize as optimize_bundle

    names = tuple(dict.fromkeys(name.strip() for name in techniques.split(",")))
    options = OptimizeOptions(
        techniques=names,  # type: ignore[arg-type]  # it refuses other words
        student_trees=student_trees,
        student_depth=student_depth,
        seed=seed,
        threads=threads,
        memory_mb=memory_mb,
    )
    with place_of(bundle, registry, config) as (path, _), progress_stages() as progress:
        found = optimize_bundle(
            path,
            payments,
            labels,
            out,
            options,
            progress,
            catalog_of(catalog, config),
            looks_like_card_number,
            columns_of(mapped),
            configured(config),
        )
    if as_json:
        print_json(msgspec.to_builtins(found))
        return 0
    columns = (
        "form", "engine", "trees", "AUC", "AP", "recall at P 0.9", "KB", "KB compiled", "1 row, us", "row of 128, us",
        "CPU s per million", "largest difference",
    )  # fmt: skip
    cells = [
        (
            each.form,
            each.engine,
            each.trees,
            *("" if value is None else f"{value:.4f}" for value in (each.auc, each.ap, each.recall_at_precision_90)),
            f"{each.file_bytes / 1_024:.0f}",
            "" if each.memory_bytes is None else f"{each.memory_bytes / 1_024:.0f}",
            f"{each.one_row_us:.1f}",
            f"{each.batch_row_us:.2f}",
            f"{each.cpu_s_per_million:.2f}",
            f"{each.largest_difference:.1e}",
        )
        for each in found
    ]
    print_table(f"Forms of {bundle}; bundles are in {out}", columns, cells, as_json=False)
    return 0


def _registry(url: str | None, config: Path | None) -> Registry:
    from consumer import settings
    from models.registry import Registry

    place = url or settings.load(config).model.registry
    if not place:
        raise ConfigError("No registry of models is known; set model.registry, or give --registry.")
    return Registry(place)


def catalog_of(name: str | None, config: Path | None) -> Any:
    """The catalog of that name, or the settings'."""
    from consumer import settings
    from features.profiles import load_catalog

    return load_catalog(name or settings.load(config).features.catalog)


@contextmanager
def place_of(name: str, url: str | None, config: Path | None) -> Iterator[tuple[Path, str | None]]:
    """A bundle's directory, and its folder in the registry if it was fetched from there."""
    if Path(name).is_dir():
        yield Path(name), None
        return
    try:
        registry = _registry(url, config)
    except ConfigError:
        raise ConfigError(
            f"There is no directory {name}, and no registry is known; give a bundle's directory, or --registry."
        ) from None
    entry = registry.find(name)
    with registry.bundle(entry.bundle) as path:
        yield path, entry.bundle


def _holder(registry: Registry, role: RoleArgument) -> str | None:
    current = registry.standing(role.value).current
    return None if current is None else current.bundle


def _print_standing(role: RoleArgument, title: str, registry: Registry, *, as_json: bool) -> None:
    import msgspec

    standing = registry.standing(role.value)
    if as_json:
        print_json(msgspec.to_builtins(standing))
        return
    rows = [] if standing.current is None else [("now", standing.current)]
    rows += [("before", promotion) for promotion in standing.earlier[:5]]
    cells = [(when, each.bundle, iso(each.at_ms), each.by) for when, each in rows]
    print_table(title, (role.value, "bundle", "since", "by"), cells, as_json=False)


def _facts(manifest: Manifest, digest: str) -> dict[str, Any]:
    window = manifest.training_window
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": digest,
        "made": iso(manifest.created_ms),
        "trained_on": f"{iso(window.first_ms)} to {iso(window.last_ms)}",
        "features": len(manifest.features),
        "trees": dict(manifest.trees),
        "ap": _metric(manifest, "ap"),
        "auc": _metric(manifest, "auc"),
        "libraries": dict(manifest.libraries),
    }


def _metric(manifest: Manifest, name: str) -> float | None:
    from models.compare import metric

    return metric(manifest, name)


shadow_app = typer.Typer(help="Look at the challenger beside the champion.")


@shadow_app.callback()
def _shadow() -> None:
    pass


@shadow_app.command()
def report(
    *,
    mature: Annotated[
        str, typer.Option(metavar="TIME", help="A payment this old that nobody called fraud is genuine: 12h, 7d.")
    ] = "7d",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Compare champion and challenger on the payments that both judged and the labels that have come."""
    from contextlib import closing

    from consumer import logs, settings, shadow_report
    from consumer.cli_output import duration_ms, progress_stages
    from consumer.kafka.logreader import LogReader

    mature_ms = duration_ms(mature, "--mature")
    logs.configure_command()
    loaded = settings.load(config)
    reading = closing(LogReader(loaded.kafka, loaded.topics.shadow, loaded.topics.labels))
    with reading as log, progress_stages() as tell:
        collected = shadow_report.collect(log, loaded.topics.shadow, lambda share: tell("reading", share))
    found = shadow_report.report(collected, mature_ms)
    if as_json:
        print_json(found)
        return 0
    quality = found.pop("quality")
    names = list(quality["champion"])
    rows = [(name, *(_shown(quality[side][name]) for side in ("champion", "challenger"))) for name in names]
    print_mapping("Judged", found, as_json=False)
    print_table("On the same payments", ("", found["champion"], found["challenger"]), rows, as_json=False)
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return "" if value is None else f"{value:,}"
