"""Signed bundles: whoever loads one to use it holds it to its signature, and nothing that was changed passes."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.doctor import model as doctor
from consumer.model_loader import ModelLoader
from consumer.settings import ModelSettings, Settings
from consumer.telemetry import Telemetry
from consumer.trust import trust_of
from features.catalog import DEFAULT
from features.errors import BundleError, ConfigError
from models.bundle import load, read_files
from models.bundle_writer import sign, write_with_policy
from models.manifest import MANIFEST, POLICY, SIGNATURE
from models.registry import Registry
from models.signature import ANYBODY, CONTEXT, PRIVATE_KEY, PUBLIC_KEY, SHOWN, Trust, make_keys, signed, trust
from tests.poison import payment
from tests.support.bundles import edit_manifest, make_bundle
from tests.support.world import World

PASSWORD = "Zq9-key-password"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder, None)
    make_keys(folder / "other", None)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A signed bundle; tests take copies."""
    path = make_bundle(tmp_path_factory.mktemp("signed") / "bundle").path
    sign(path, keys / PRIVATE_KEY, None)
    return path


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def trusted(keys: Path) -> Trust:
    return trust([keys / PUBLIC_KEY], required=True)


def refusal(path: Path, whom: Trust) -> str:
    with pytest.raises(BundleError) as caught:
        read_files(path, trust=whom)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_signed_bundle_loads_and_says_who_signed(bundle: Path, keys: Path, trusted: Trust) -> None:
    [(name, _)] = trusted.keys
    assert load(bundle, DEFAULT, trusted).signed_by == name
    assert load(bundle, DEFAULT).signed_by is None  # nobody asked


def test_an_unsigned_bundle_is_refused_only_where_a_signature_is_required(bundle: Path, trusted: Trust) -> None:
    (bundle / SIGNATURE).unlink()
    assert "is not signed" in refusal(bundle, trusted)
    assert read_files(bundle, trust=Trust(trusted.keys)).signed_by is None


def edit_version(path: Path, _keys: Path) -> None:
    """What digests alone let pass."""
    edit_manifest(path, version="forged")
    read_files(path)


def reformat_manifest(path: Path, _keys: Path) -> None:
    """The same digest in other bytes."""
    raw = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(msgspec.json.encode(msgspec.json.decode(raw)))
    assert read_files(path).digest


def truncate(path: Path, _keys: Path) -> None:
    data = (path / SIGNATURE).read_bytes()
    (path / SIGNATURE).write_bytes(data[: len(data) // 2])


def empty(path: Path, _keys: Path) -> None:
    (path / SIGNATURE).write_bytes(b"")


def spelled_otherwise(path: Path, _keys: Path) -> None:
    """The same to a parser of JSON."""
    data = (path / SIGNATURE).read_bytes()
    (path / SIGNATURE).write_bytes(data[:-1] + b" ")


def of_another_bundle(path: Path, keys: Path) -> None:
    other = make_bundle(path.parent / "other", seed=2).path
    sign(other, keys / PRIVATE_KEY, None)
    shutil.copy(other / SIGNATURE, path / SIGNATURE)


def without_context(path: Path, keys: Path) -> None:
    """A signature of the same bytes that was given for something else."""
    key = load_pem_private_key((keys / PRIVATE_KEY).read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = (path / MANIFEST).read_bytes()
    bare = msgspec.structs.replace(signed(raw, key), signature=key.sign(raw).hex())
    (path / SIGNATURE).write_bytes(bare.encoded())


def renamed_key(path: Path, keys: Path) -> None:
    """Somebody else's signature under the name of a trusted key."""
    key = load_pem_private_key((keys / "other" / PRIVATE_KEY).read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    [(name, _)] = trust([keys / PUBLIC_KEY], required=True).keys
    forged = msgspec.structs.replace(signed((path / MANIFEST).read_bytes(), key), key=name)
    (path / SIGNATURE).write_bytes(forged.encoded())


def by_another_key(path: Path, keys: Path) -> None:
    sign(path, keys / "other" / PRIVATE_KEY, None)


def as_a_link(path: Path, _keys: Path) -> None:
    (path / SIGNATURE).rename(path.parent / SIGNATURE)
    (path / SIGNATURE).symlink_to(path.parent / SIGNATURE)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("forge", "part"),
    [
        (edit_version, "no signature of this manifest.json"),
        (reformat_manifest, "no signature of this manifest.json"),
        (truncate, "is damaged"),
        (empty, "is damaged"),
        (spelled_otherwise, "is damaged"),
        (of_another_bundle, "no signature of this manifest.json"),
        (without_context, "no signature of this manifest.json"),
        (renamed_key, "no signature of this manifest.json"),
        (by_another_key, "which is not trusted here"),
        (as_a_link, "symbolic link"),
    ],
)
def test_a_signature_that_does_not_hold_is_refused_required_or_not(
    bundle: Path, keys: Path, forge: Callable[[Path, Path], None], part: str, required: bool
) -> None:
    forge(bundle, keys)
    assert part in refusal(bundle, trust([keys / PUBLIC_KEY], required=required))


@given(data=st.data())
def test_no_flipped_byte_passes(sound: Path, trusted: Trust, data: st.DataObject) -> None:
    """In any file, the signature included; what it was is put back."""
    path = data.draw(st.sampled_from(sorted(sound.iterdir())))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    other = data.draw(st.integers(1, 255))
    changed = bytearray(before)
    changed[at] ^= other
    path.write_bytes(changed)
    try:
        refusal(sound, trusted)
    finally:
        path.write_bytes(before)
    assert read_files(sound, trust=trusted).signed_by


def test_either_of_two_trusted_keys_will_do(bundle: Path, keys: Path) -> None:
    """As while keys are rotated."""
    both = trust([keys / PUBLIC_KEY, keys / "other" / PUBLIC_KEY], required=True)
    first = read_files(bundle, trust=both).signed_by
    sign(bundle, keys / "other" / PRIVATE_KEY, None)
    assert read_files(bundle, trust=both).signed_by not in {None, first}


def test_a_changed_policy_makes_an_unsigned_bundle(bundle: Path, keys: Path, trusted: Trust, tmp_path: Path) -> None:
    out = tmp_path / "changed"
    made, was_signed = write_with_policy(bundle, bundle / POLICY, out, DEFAULT, "2", trusted)
    assert was_signed
    assert made.signed_by is None
    assert "is not signed" in refusal(out, trusted)
    sign(out, keys / PRIVATE_KEY, None)
    assert read_files(out, trust=trusted).signed_by
    write_with_policy(out, out / POLICY, out, DEFAULT, "3", trusted)  # in its own place too
    assert not (out / SIGNATURE).exists()


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: Path) -> None:
    (bundle / "golden.json").write_bytes(b"{}")
    before = (bundle / SIGNATURE).read_bytes()
    with pytest.raises(BundleError, match=r"golden\.json"):
        sign(bundle, keys / PRIVATE_KEY, None)
    assert (bundle / SIGNATURE).read_bytes() == before


def test_only_what_was_looked_at_is_signed(bundle: Path, keys: Path) -> None:
    """What is audited is what is signed, whoever may write there."""
    (bundle / SIGNATURE).unlink()
    digest = read_files(bundle).digest
    edit_manifest(bundle, version="forged")
    with pytest.raises(BundleError, match="was changed while it was looked at"):
        sign(bundle, keys / PRIVATE_KEY, None, digest)
    assert not (bundle / SIGNATURE).exists()
    sign(bundle, keys / PRIVATE_KEY, None, read_files(bundle).digest)


def test_the_context_is_part_of_what_is_signed() -> None:
    assert CONTEXT.endswith(b"\0")


class TestKeys:
    def test_only_the_owner_may_read_the_private_half(self, tmp_path: Path) -> None:
        make_keys(tmp_path / "new", None)
        assert stat.S_IMODE((tmp_path / "new" / PRIVATE_KEY).stat().st_mode) == 0o600
        assert b"PUBLIC" in (tmp_path / "new" / PUBLIC_KEY).read_bytes()

    def test_no_key_is_written_over(self, tmp_path: Path) -> None:
        make_keys(tmp_path, None)
        before = (tmp_path / PRIVATE_KEY).read_bytes()
        with pytest.raises(ConfigError, match="never written over"):
            make_keys(tmp_path, None)
        assert (tmp_path / PRIVATE_KEY).read_bytes() == before

    def test_an_encrypted_key_needs_its_password(self, bundle: Path, tmp_path: Path) -> None:
        make_keys(tmp_path, PASSWORD)
        assert b"ENCRYPTED" in (tmp_path / PRIVATE_KEY).read_bytes()
        for password, part in ((None, "is encrypted"), ("wrong", "or the password is wrong")):
            with pytest.raises(ConfigError, match=part) as caught:
                sign(bundle, tmp_path / PRIVATE_KEY, password)
            assert PASSWORD not in str(caught.value)
        sign(bundle, tmp_path / PRIVATE_KEY, PASSWORD)
        assert read_files(bundle, trust=trust([tmp_path / PUBLIC_KEY], required=True)).signed_by

    @pytest.mark.parametrize("what", ["private", "rsa", "junk", "absent", "large", "certificate"])
    def test_what_is_no_ed25519_public_key_is_refused(self, what: str, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        key = rsa.generate_private_key(65_537, 2_048)
        content = {
            "private": Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "rsa": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "junk": b"junk",
            "large": b"x" * 20_000,
            "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        }.get(what)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=str(path)) as caught:
            trust([path], required=True)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("signature", ["optional", "required"])
    def test_an_empty_file_among_the_trusted_keys_names_the_setting(
        self, signature: Any, keys: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.pem").touch()
        options = ModelSettings(signature=signature, trusted_keys=(keys / PUBLIC_KEY, tmp_path / "empty.pem"))
        with pytest.raises(ConfigError, match=r"model\.trusted_keys: .*empty\.pem holds no Ed25519 public key"):
            trust_of(options)

    @pytest.mark.parametrize("what", ["public", "rsa", "junk"])
    def test_what_is_no_ed25519_private_key_signs_nothing(self, what: str, bundle: Path, keys: Path) -> None:
        path = bundle.parent / "key.pem"
        other = rsa.generate_private_key(65_537, 2_048)
        path.write_bytes(
            {
                "public": (keys / PUBLIC_KEY).read_bytes(),
                "rsa": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                "junk": b"junk",
            }[what]
        )
        with pytest.raises(ConfigError):
            sign(bundle, path, None)


@pytest.fixture(params=["file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Registry]:
    yield Registry(str(tmp_path / "registry") if request.param == "file" else f"memory://{unique}")
    fsspec.filesystem("memory").store.clear()


def following(registry: Registry, keys: Path, **more: Any) -> ModelLoader:
    options = ModelSettings(
        registry=registry.url, signature="required", trusted_keys=(keys / PUBLIC_KEY,), poll_s=0.1, **more
    )
    return ModelLoader(Settings(model=options), DEFAULT, Telemetry())


def test_the_registry_keeps_the_signature_and_promotes_nothing_without(
    registry: Registry, bundle: Path, trusted: Trust
) -> None:
    promotion = registry.promote(bundle, "champion", DEFAULT, trust=trusted)
    with registry.bundle(promotion.bundle) as path:
        assert read_files(path, trust=trusted).signed_by
    edit_manifest(bundle, version="2")
    with pytest.raises(BundleError):
        registry.promote(bundle, "champion", DEFAULT, trust=trusted)
    assert registry.standing("champion").current == promotion


def test_an_unsigned_champion_is_not_swapped_in(registry: Registry, bundle: Path, keys: Path, trusted: Trust) -> None:
    """Promoted by somebody whose settings ask for nothing."""
    registry.promote(bundle, "champion", DEFAULT)
    loader = following(registry, keys)
    first = loader.current().champion
    assert first.signed_by == trusted.keys[0][0]
    for forged in ("unsigned", "by somebody else"):
        other = make_bundle(bundle.parent / forged, seed=3, version=forged.replace(" ", "-")).path
        if forged != "unsigned":
            sign(other, keys / "other" / PRIVATE_KEY, None)
        registry.promote(other, "champion", DEFAULT)
        loader.look()
        assert loader.current().champion is first
    sign(other, keys / PRIVATE_KEY, None)
    registry.promote(other, "champion", DEFAULT)  # signed now, and promoted again
    loader.look()
    assert loader.current().champion.reference.version == "by-somebody-else"


def test_a_processor_does_not_start_with_an_unsigned_bundle(bundle: Path, keys: Path) -> None:
    (bundle / SIGNATURE).unlink()
    options = ModelSettings(bundle=bundle, signature="required", trusted_keys=(keys / PUBLIC_KEY,))
    with pytest.raises(BundleError, match="is not signed"):
        ModelLoader(Settings(model=options), DEFAULT, Telemetry())


def test_the_doctor_asks_too(bundle: Path, keys: Path) -> None:
    options = ModelSettings(bundle=bundle, signature="required", trusted_keys=(keys / PUBLIC_KEY,))
    assert "signed by the key" in doctor.model(Settings(model=options), DEFAULT).seen
    edit_manifest(bundle, version="forged")
    with pytest.raises(BundleError, match="no signature of this"):
        doctor.model(Settings(model=options), DEFAULT)


@pytest.fixture
def requiring(monkeypatch: pytest.MonkeyPatch, keys: Path) -> None:
    monkeypatch.setenv("FRAUDLINE_MODEL__SIGNATURE", "required")
    monkeypatch.setenv("FRAUDLINE_MODEL__TRUSTED_KEYS", str(keys / PUBLIC_KEY))


@pytest.fixture
def history(tmp_path: Path) -> Path:
    assert exit_status(["generate", "--payments", "300", "--seed", "3", "--out", str(tmp_path / "history")]) == 0
    return tmp_path / "history"


def command(name: str, bundle: Path, history: Path, out: Path) -> list[str]:
    payments, labels = str(history / "payments.jsonl"), str(history / "labels.jsonl")
    files = ["--payments", payments, "--labels", labels]
    return {
        "verify": ["model", "verify", str(bundle)],
        "promote": ["model", "promote", str(bundle), "--registry", str(out / "registry")],
        "optimize": ["model", "optimize", str(bundle), *files, "--out", str(out / "forms")],
        "apply": ["policy", "apply", str(bundle / POLICY), "--bundle", str(bundle), "--out", str(out / "applied")],
        "try": ["policy", "try", "--rule", "amount_minor > 5", "--on", payments, "--bundle", str(bundle)],
        "score": ["score", "--bundle", str(bundle), *files, "--out", str(out / "decisions.jsonl")],
        "score lines": ["score", "--bundle", str(bundle)],
        "backtest": ["backtest", *files, "--variant", f"a={bundle}", "--out", str(out / "page.html")],
        "drift": ["drift", "report", str(bundle), *files],
        "certify": [
            "certify",
            "--decisions",
            str(out / "topics" / "decisions.jsonl"),
            "--payments",
            payments,
            "--bundle",
            str(bundle),
        ],
        "run": ["run"],
    }[name]


@pytest.mark.usefixtures("requiring")
@pytest.mark.parametrize(
    "name",
    ["verify", "promote", "optimize", "apply", "try", "score", "score lines", "backtest", "drift", "certify", "run"],
)
def test_every_command_that_uses_a_bundle_asks_for_its_signature(
    name: str,
    bundle: Path,
    history: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRAUDLINE_MODEL__BUNDLE", str(bundle))
    edit_manifest(bundle, version="forged")
    if name == "certify":
        world = World(bundle, [[payment(event_id="a"), payment(event_id="b")]])
        world.drain()
        world.dump(tmp_path / "topics")
    capfd.readouterr()
    assert exit_status(command(name, bundle, history, tmp_path)) == 1
    told = capfd.readouterr()
    assert "is no signature of this manifest.json" in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "decisions.jsonl").exists()
    assert not (tmp_path / "registry").exists()


@pytest.mark.usefixtures("requiring")
def test_a_decision_is_not_explained_by_a_forged_bundle(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the topics say is told; that it is right is not."""
    edit_manifest(bundle, version="forged")
    world = World(bundle, [[payment(event_id="a"), payment(event_id="b")]])
    world.drain()
    topics = world.dump(tmp_path / "topics")
    files = ["--decisions", str(topics["decisions"]), "--payments", str(topics["payments"])]
    assert exit_status(["explain", "a", *files, "--bundle", str(bundle), "--json"]) == 4
    assert "is no signature of this manifest.json" in capfd.readouterr().out


@pytest.mark.usefixtures("requiring")
def test_the_commands_sign_and_verify(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From a key of one's own to a champion."""
    (bundle / SIGNATURE).unlink()
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    mine = tmp_path / "mine"
    assert exit_status(["model", "keygen", "--out", str(mine), "--password-file", str(password)]) == 0
    assert exit_status(["model", "sign", str(bundle), "--key", str(mine / PRIVATE_KEY)]) == 2
    told = capfd.readouterr()
    assert "is encrypted" in told.err
    given_password = ["--password-file", str(password)]
    assert exit_status(["model", "sign", str(bundle), "--key", str(mine / PRIVATE_KEY), *given_password]) == 0
    assert exit_status(["model", "verify", str(bundle)]) == 1  # the settings trust another key
    assert "which is not trusted here" in capfd.readouterr().err
    [(name, _)] = trust([mine / PUBLIC_KEY], required=True).keys
    assert exit_status(["model", "verify", str(bundle), "--trusted-key", str(mine / PUBLIC_KEY), "--json"]) == 0
    told = capfd.readouterr()
    assert msgspec.json.decode(told.out)["signed_by"] == name
    assert PASSWORD not in told.out + told.err
    assert name[:SHOWN] in name


def test_a_password_may_come_from_the_environment_and_never_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keygen = ["model", "keygen", "--out", str(tmp_path / "k")]
    assert exit_status([*keygen, "--password-env", "KEY_PASSWORD"]) == 2
    monkeypatch.setenv("KEY_PASSWORD", PASSWORD)
    assert exit_status([*keygen, "--password-env", "KEY_PASSWORD", "--password-file", "x"]) == 2
    assert exit_status([*keygen, "--password-env", "KEY_PASSWORD"]) == 0
    assert b"ENCRYPTED" in (tmp_path / "k" / PRIVATE_KEY).read_bytes()
    told = capfd.readouterr()
    assert PASSWORD not in told.out + told.err


def test_a_changed_bundle_is_said_to_be_unsigned(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "applied"
    policy = ["policy", "apply", str(bundle / POLICY), "--bundle", str(bundle), "--out", str(out), "--version", "2"]
    assert exit_status(policy) == 0
    assert "is not: sign it with" in capfd.readouterr().err


def test_nobody_asks_where_no_key_is_known(bundle: Path) -> None:
    (bundle / SIGNATURE).write_bytes(b"junk")
    assert read_files(bundle, trust=ANYBODY).signed_by is None
