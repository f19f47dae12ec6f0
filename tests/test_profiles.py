"""Catalog files: what they switch on, and the one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.catalog import DEFAULT, HANDBOOK
from features.errors import ConfigError
from features.event import Payment
from features.offline import build
from features.profiles import load_catalog

T0_MS = 1_767_571_200_000


def test_a_profile_is_found_by_its_name() -> None:
    assert load_catalog("default") is DEFAULT
    assert load_catalog("handbook") is HANDBOOK


def test_a_file_switches_groups_on_in_the_profiles_order(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text('groups = ["card.labels", "payment", "card.volume"]')
    catalog = load_catalog(str(path))
    assert catalog.groups == ("payment", "card.volume", "card.labels")
    assert catalog.limits == DEFAULT.limits
    assert catalog.fingerprint == DEFAULT.only(catalog.names).fingerprint
    path.write_text('profile = "handbook"')
    assert load_catalog(str(path)) is HANDBOOK


def test_a_file_may_shorten_the_duplicate_horizon(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text("[limits]\nduplicate_ms = 3_600_000")
    catalog = load_catalog(str(path))
    assert catalog.names == DEFAULT.names
    assert catalog.fingerprint != DEFAULT.fingerprint
    first, within, beyond = (
        Payment("evt", T0_MS + 60_000 * minute, "tok", "shop", 100, "EUR") for minute in (0, 59, 130)
    )
    assert build([first, within, beyond], catalog).kept.tolist() == [True, False, True]
    assert build([first, within, beyond], DEFAULT).kept.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("profile = 'defualt'", "did you mean 'default'"),
        ("profile = 3", "profile must be one of default, handbook"),
        ("groups = ['card.volum']", "no group 'card.volum'; did you mean 'card.volume'"),
        ("groups = []", "groups must be a list of names"),
        ("groups = 'payment'", "groups must be a list of names"),
        ("group = ['payment']", "'group' is unknown"),
        ("limits = 3", "the limits can't be used: expected `object`"),
        ("[limits]\nduplicate_s = 3", "unknown field `duplicate_s`"),
        ("[limits]\nduplicate_ms = 'a week'", "expected `int`"),
        ("[limits]\nduplicate_ms = 4_000_000_000", "duplicate_ms at most horizon_ms"),
        ("[limits]\nkeep = 0", "keep is 1 to 16,384"),
        ("profile = ", "is not TOML"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_what_to_do(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=complaint):
        load_catalog(str(path))


def test_a_name_that_is_neither_profile_nor_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'handbok' is no catalog.*did you mean 'handbook'"):
        load_catalog("handbok")
    with pytest.raises(ConfigError, match="can't be read"):
        load_catalog(str(tmp_path))
