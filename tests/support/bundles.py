"""Small real bundles: fitted in milliseconds on invented rows, written and loaded by the code that users run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from features.catalog import DEFAULT, Catalog
from models.bundle import Bundle
from models.bundle_writer import Recipe, write
from models.fit import Part, TreeOptions, fit
from models.manifest import MANIFEST
from models.policy import Policy, Rule, Thresholds
from models.starter_rules import starter_rules

CREATED_MS = 1_767_571_200_000
LARGE_MINOR = 100_000.0


def rows(count: int, seed: int = 1, catalog: Catalog = DEFAULT) -> npt.NDArray[np.float32]:
    """(count, features) float32: lognormal values, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(3.0, 2.0, (count, len(catalog.names))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return values


def looks_like_fraud(values: npt.NDArray[np.float32], catalog: Catalog = DEFAULT) -> npt.NDArray[np.bool_]:
    """(n,) what the small models learn: a large amount, or many payments of the card."""
    amount = np.nan_to_num(values[:, catalog.names.index("amount_minor")])
    count = np.nan_to_num(values[:, catalog.names.index("card_count_1h")])
    fraud: npt.NDArray[np.bool_] = (amount > 300) | (count > 400)
    return fraud


def make_bundle(
    path: Path,
    *,
    seed: int = 1,
    trees: int = 12,
    catalog: Catalog = DEFAULT,
    rules: tuple[Rule, ...] | None = None,
    review: float = 0.5,
    block: float | None = 0.9,
    version: str = "1",
    noise: float = 0.0,
) -> Bundle:
    """Write a bundle to `path`: models of a dozen shallow trees, and a policy with the starting rules or `rules`.

    With `noise`, so many of what they learn from are wrong: then many features count, and scores are everywhere.
    """
    values = rows(2_000, seed, catalog)
    fraud = looks_like_fraud(values, catalog)
    fraud ^= np.random.default_rng(seed).random(len(values)) < noise
    options = TreeOptions(trees=trees, depth=4, learning_rate=0.3, seed=seed, threads=1)
    rows_of = np.arange(len(values))
    models = [
        fit(
            Part(values, rows_of, np.array(columns), fraud),
            tuple(catalog.names[column] for column in columns),
            options,
            lambda _text, _share: None,
            memory_mb=64,
        )
        for columns in (range(len(catalog.names)), catalog.payment_columns)
    ]
    bar = Thresholds(review, block)
    recipe = Recipe(
        name="test",
        version=version,
        created_ms=CREATED_MS,
        model=models[0],
        no_features=models[1],
        policy=Policy(
            catalog.flags,
            {"full": bar, "no_features": bar},
            starter_rules(values, catalog.names) if rules is None else rules,
        ),
        golden_rows=values[:16],
        window=(CREATED_MS - 86_400_000, CREATED_MS),
        metrics={"payments": len(values)},
    )
    return write(path, recipe, catalog)


def edit_manifest(bundle: Path, **changes: Any) -> None:
    """Replace fields of a bundle's manifest."""
    document = msgspec.json.decode((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_bytes(msgspec.json.encode(document | changes))


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file of a bundle and make the manifest vouch for it, as a forger would."""
    (bundle / name).write_bytes(data)
    files = msgspec.json.decode((bundle / MANIFEST).read_bytes())["files"]
    files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(bundle, files=files)
