"""Catalog files: what they switch on, and the one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.catalog import DEFAULT, HANDBOOK
from features.errors import ConfigError
from features.profiles import load_catalog


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


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("profile = 'defualt'", "did you mean 'default'"),
        ("profile = 3", "profile must be one of default, handbook"),
        ("groups = ['card.volum']", "no group 'card.volum'; did you mean 'card.volume'"),
        ("groups = []", "groups must be a list of names"),
        ("groups = 'payment'", "groups must be a list of names"),
        ("group = ['payment']", "'group' is unknown"),
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
