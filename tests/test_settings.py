"""Settings: defaults, file and environment in that order; unknown names refused; secrets never shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from consumer.settings import KNOWN, KafkaSettings, Settings, StoreSettings, describe, load
from consumer.settings_source import MASK, shown_url, variable
from features.errors import ConfigError

SECRET = "hunter2-Zq9"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FRAUDLINE_"):
            monkeypatch.delenv(name)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fraudline.toml"
    path.write_text(text)
    return path


def refusal(path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


def test_defaults_need_nothing() -> None:
    loaded = load()
    assert loaded.kafka.brokers == "localhost:9092"
    assert loaded.kafka.transactional_id.startswith("fraudline-")
    assert loaded.processing.budget_ms == 200
    assert {origin for _, _, origin in describe(loaded)} == {"default"}
    assert [name for name, _, _ in describe(loaded)] == list(KNOWN.secret)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, '[kafka]\ngroup_id = "from-file"\nbrokers = "file:9092"\n[processing]\nmax_batch = 7\n')
    monkeypatch.setenv("FRAUDLINE_KAFKA__BROKERS", "env:9092")
    loaded = load(path)
    assert (loaded.kafka.brokers, loaded.kafka.group_id, loaded.processing.max_batch) == ("env:9092", "from-file", 7)
    assert loaded.kafka.transactional_id.startswith("from-file-")
    origins = {name: origin for name, _, origin in describe(loaded)}
    assert origins["kafka.brokers"] == "FRAUDLINE_KAFKA__BROKERS"
    assert origins["kafka.group_id"] == str(path)
    assert origins["topics.alerts"] == "default"


def test_the_file_may_be_named_by_the_environment_and_an_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named.toml"
    named.write_text('[kafka]\ngroup_id = "named"\n')
    monkeypatch.setenv("FRAUDLINE_CONFIG", str(named))
    assert load().kafka.group_id == "named"
    assert load(toml(tmp_path, '[kafka]\ngroup_id = "argument"\n')).kafka.group_id == "argument"


def test_building_settings_by_hand_looks_at_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDLINE_KAFKA__GROUP_ID", "env")
    assert Settings().kafka.group_id == "fraudline"
    assert Settings(kafka=KafkaSettings(group_id="mine")).kafka.group_id == "mine"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDLINE_KAFKA__SASL_PASSWORD", "")
    monkeypatch.setenv("FRAUDLINE_KAFKA__GROUP_ID", "")
    assert load().kafka.group_id == "fraudline"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("FRAUDLINE_KAFKA__BROKER", "FRAUDLINE_KAFKA__BROKERS"),
        ("FRAUDLINE_KAFKA_BROKERS", "FRAUDLINE_KAFKA__BROKERS"),
        ("FRAUDLINE_KAFKA", "FRAUDLINE_KAFKA__BROKERS"),
        ("fraudline_kafka__brokers", "FRAUDLINE_KAFKA__BROKERS"),
        ("FRAUDLINE_STORE__URI", "FRAUDLINE_STORE__URL"),
        ("FRAUDLINE_KAFKA__SASL_PASSWORD_FIL", "FRAUDLINE_KAFKA__SASL_PASSWORD_FILE"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    sentence = refusal()
    assert name in sentence
    assert f"did you mean {nearest}?" in sentence
    assert SECRET not in sentence


def test_what_kubernetes_says_of_a_service_called_fraudline_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "FRAUDLINE_SERVICE_HOST",
        "FRAUDLINE_SERVICE_PORT",
        "FRAUDLINE_SERVICE_PORT_METRICS",
        "FRAUDLINE_PORT",
        "FRAUDLINE_PORT_9464_TCP",
        "FRAUDLINE_PORT_9464_TCP_ADDR",
        "FRAUDLINE_METRICS_SERVICE_HOST",
    ):
        monkeypatch.setenv(name, "tcp://10.0.0.1:9464")
    assert load().telemetry.port == 9464


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[kafka]\nbroker = "x"\n', "did you mean kafka.brokers?"),
        ('[kafak]\nbrokers = "x"\n', "did you mean kafka?"),
        ("kafka = 1\n", "not a section"),
        ("[kafka]\nbrokers = \n", "not valid TOML at line 2"),
        ("[processing]\nmax_batch = 0\n", "processing.max_batch (from "),
        ('[processing]\nmax_batch = "many"\n', "is 'many'"),
        ("[processing]\nmax_batch = 10_000\n", "less than or equal to 4096"),
        ("[processing]\nlinger_ms = 300\n", "linger_ms must be below budget_ms"),
        ('[kafka]\ngroup_id = ""\n', "kafka.group_id"),
        ('[topics]\nalerts = "decisions"\n', "decisions and alerts are both 'decisions'"),
        ('[topics]\nalerts = "no spaces"\n', "topics.alerts"),
        ("[kafka]\nmax_poll_interval_ms = 5000\n", "max_poll_interval_ms must be at least session_timeout_ms"),
        ('[store]\noutage = "panic"\ntimeout_ms = 1\n', "and 1 more setting is wrong"),
        ("[kafka]\nbrokers = {a = 1}\n", "kafka.brokers"),
    ],
)
def test_a_bad_file_gets_one_sentence_that_says_where(text: str, part: str, tmp_path: Path) -> None:
    path = toml(tmp_path, text)
    sentence = refusal(path)
    assert part in sentence


def test_a_file_that_cannot_be_read_gets_one_sentence(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(binary)


SASL = {"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN", "sasl_username": "u", "sasl_password": "p"}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kafka.transaction_timeout_ms": "4999"}, "greater than or equal to 5000"),
        ({"kafka.transaction_timeout_ms": "60001"}, "less than or equal to 60000"),
        ({"kafka.max_poll_interval_ms": "2000", "kafka.session_timeout_ms": "3000"}, "at least session_timeout_ms"),
        ({"store.timeout_ms": "1001"}, "less than or equal to 1000"),
        ({"store.namespace": "a{b}"}, "pattern"),
        ({"processing.max_batch": "4097"}, "less than or equal to 4096"),
        ({"processing.linger_ms": "200"}, "linger_ms must be below budget_ms"),
        ({"processing.max_payment_bytes": "1048577"}, "less than or equal to 1048576"),
        ({"topics.payments": "a topic"}, "pattern"),
        ({"topics.journal": "payments"}, "payments and journal are both 'payments'"),
    ],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, str], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(variable(name), value)
    assert part in refusal()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"cluster": "true"}, "needs shards of 3 or more"),
        ({"cluster": "true", "shards": "2"}, "needs shards of 3 or more"),
        ({"tls_key_file": "PEM"}, "belong together"),
        ({"tls_certificate_file": "PEM"}, "belong together"),
        ({"tls_ca_file": "ABSENT"}, "does not point to a file"),
    ],
)
def test_a_half_configured_store_is_refused(
    changes: dict[str, str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "a.pem"
    pem.write_text("certificate")
    for name, value in changes.items():
        monkeypatch.setenv(variable(f"store.{name}"), str(pem) if value == "PEM" else value)
    with pytest.raises(ConfigError, match=part):
        load()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"security_protocol": "sasl_ssl"}, "also needs sasl_mechanism"),
        ({**SASL, "sasl_username": None}, "also needs sasl_username"),
        ({**SASL, "sasl_password": None}, "also needs sasl_password"),
        ({**SASL, "security_protocol": "plaintext"}, "is set but security_protocol is 'plaintext'"),
        ({**SASL, "security_protocol": "sasl_plaintext", "ssl_ca_file": "CA"}, "ssl_ca_file is set but"),
        ({"ssl_ca_file": "CA"}, "ssl_ca_file is set but security_protocol is 'plaintext'"),
        ({"security_protocol": "ssl", "ssl_certificate_file": "CA"}, "belong together"),
        ({"security_protocol": "ssl", "ssl_key_file": "CA"}, "belong together"),
        ({"security_protocol": "ssl", "ssl_key_password": "p"}, "without ssl_key_file"),
        ({"security_protocol": "ssl", "ssl_ca_file": "ABSENT"}, "does not point to a file"),
    ],
)
def test_half_configured_tls_and_sasl_are_refused(
    changes: dict[str, str | None], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("certificate")
    for name, value in changes.items():
        if value is not None:
            text = {"CA": str(ca), "ABSENT": str(tmp_path / "absent.pem")}.get(value, value)
            monkeypatch.setenv(variable(f"kafka.{name}"), text)
    assert part in refusal()


def test_whole_tls_and_sasl_are_taken_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("x")
    given_values = {**SASL, "security_protocol": "SASL_SSL", "sasl_mechanism": "scram-sha-512", "sasl_username": "12"}
    for name, value in {**given_values, "ssl_certificate_file": str(pem), "ssl_key_file": str(pem)}.items():
        monkeypatch.setenv(variable(f"kafka.{name}"), value)
    kafka = load().kafka
    assert (kafka.security_protocol, kafka.sasl_mechanism, kafka.sasl_username) == ("sasl_ssl", "SCRAM-SHA-512", "12")
    assert kafka.ssl_key_file == pem


OAUTH = {
    "security_protocol": "sasl_ssl",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://idp.example/token",
    "sasl_oauth_client_id": "fraudline",
    "sasl_oauth_client_secret": SECRET,
}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sasl_oauth_token_url": None}, "also needs sasl_oauth_token_url"),
        ({"sasl_oauth_client_id": None}, "also needs sasl_oauth_client_id"),
        ({"sasl_oauth_client_secret": None}, "also needs sasl_oauth_client_secret"),
        ({"sasl_username": "u"}, "sasl_username is set but sasl_mechanism is 'OAUTHBEARER'"),
        ({"sasl_password": SECRET}, "sasl_password is set but sasl_mechanism is 'OAUTHBEARER'"),
        ({"sasl_oauth_token_url": "http://idp.example/token"}, "in the clear: use https"),
        ({"sasl_oauth_token_url": f"https://u:{SECRET}@idp.example/token"}, "sasl_oauth_token_url"),
        ({"sasl_oauth_token_url": "ftp://idp.example"}, "sasl_oauth_token_url"),
        ({"sasl_oauth_ca_file": "/nowhere/ca.pem"}, "does not point to a file"),
        ({"sasl_mechanism": "PLAIN", "sasl_username": "u", "sasl_password": "p"}, "has no use for it"),
        ({**dict.fromkeys(OAUTH), "sasl_oauth_scope": "x"}, "sasl_oauth_scope is set but security_protocol"),
        ({**dict.fromkeys(OAUTH), "sasl_oauth_client_secret": SECRET}, "is set but security_protocol"),
    ],
)
def test_half_configured_tokens_are_refused(
    changes: dict[str, str | None], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (OAUTH | changes).items():
        if value is not None:
            monkeypatch.setenv(variable(f"kafka.{name}"), value)
    sentence = refusal()
    assert part in sentence
    assert SECRET not in sentence


@pytest.mark.parametrize("url", [OAUTH["sasl_oauth_token_url"], "http://127.0.0.1:1/token", "http://localhost/token"])
def test_whole_tokens_are_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (OAUTH | {"sasl_oauth_token_url": url}).items():
        monkeypatch.setenv(variable(f"kafka.{name}"), value)
    loaded = load()
    assert loaded.kafka.sasl_oauth_token_url == url
    assert SECRET not in repr(loaded) + json.dumps(describe(loaded)) + loaded.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"signature": "required"}, "also needs trusted_keys"),
        ({"signature": "always"}, "model.signature"),
        ({"trusted_keys": "/nowhere/key.pem"}, "does not point to a file"),
    ],
)
def test_half_configured_signatures_are_refused(
    changes: dict[str, str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(variable(f"model.{name}"), value)
    assert part in refusal()


@pytest.mark.parametrize("password", ["123", '{"a": 1}', "null", "ünï", " spaced "])
def test_a_password_is_taken_as_it_is(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SASL, "sasl_password": password}.items():
        monkeypatch.setenv(variable(f"kafka.{name}"), value)
    held = load().kafka.sasl_password
    assert held is not None
    assert held.get_secret_value() == password


def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = tmp_path / "redis-url"
    mounted.write_text(f"rediss://:{SECRET}@redis:6380/1\n")
    monkeypatch.setenv("FRAUDLINE_STORE__URL_FILE", str(mounted))
    loaded = load()
    assert loaded.store.url.get_secret_value() == f"rediss://:{SECRET}@redis:6380/1"
    origin = {name: origin for name, _, origin in describe(loaded)}["store.url"]
    assert origin == f"{mounted} (FRAUDLINE_STORE__URL_FILE)"
    monkeypatch.setenv("FRAUDLINE_STORE__URL", "redis://other")
    assert "are both set" in refusal()


def test_a_secret_in_the_environment_wins_over_a_secret_file_named_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "url"
    mounted.write_text("redis://from-file")
    path = toml(tmp_path, f'[store]\nurl_file = "{mounted}"\n')
    assert load(path).store.url.get_secret_value() == "redis://from-file"
    monkeypatch.setenv("FRAUDLINE_STORE__URL", "redis://from-env")
    assert load(path).store.url.get_secret_value() == "redis://from-env"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff", b"x" * 70_000])
def test_a_secret_file_that_is_no_use_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "url"
    if content is not None:
        mounted.write_bytes(content)
    monkeypatch.setenv("FRAUDLINE_STORE__URL_FILE", str(mounted))
    assert str(mounted) in refusal()


def test_secrets_are_masked_however_the_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SASL, "sasl_password": SECRET}.items():
        monkeypatch.setenv(variable(f"kafka.{name}"), value)
    monkeypatch.setenv("FRAUDLINE_STORE__URL", f"redis://user:{SECRET}@redis:6379/0?password={SECRET}")
    loaded = load()
    shown = describe(loaded)
    for text in (repr(loaded), str(loaded), loaded.model_dump_json(), json.dumps(shown), repr(loaded.kafka)):
        assert SECRET not in text
    values = {name: value for name, value, _ in shown}
    assert values["kafka.sasl_password"] == "********"
    assert values["store.url"] == "redis://user:********@redis:6379/0?…"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@host:6379/0",
        f"redis://user:1/{SECRET}@host:6379/0",
        f"redis://:{SECRET}#x@host:6379/0",
        f"redis://:{SECRET}?x@host:6379/0",
        f"mysql://user:{SECRET}@host",
        f"redis://{SECRET}@",
        f"redis://[{SECRET}",
        f"redis://host:{SECRET}",
        SECRET,
    ],
)
def test_a_bad_redis_url_is_refused_without_being_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_url(url) == "********"
    monkeypatch.setenv("FRAUDLINE_STORE__URL", url)
    sentence = refusal()
    assert "store.url" in sentence
    assert SECRET not in sentence
    with pytest.raises(ValidationError) as caught:
        StoreSettings(url=SecretStr(url))
    assert SECRET not in str(caught.value)


@given(password=st.text(st.characters(codec="utf-8"), min_size=6, max_size=20), user=st.sampled_from(["", "user"]))
def test_a_password_in_a_url_never_shows(password: str, user: str) -> None:
    marked = f"Zq9{password}Zq9"
    shown = shown_url(f"redis://{user}:{marked}@host:6379/0")
    assert "Zq9" not in shown


def test_credentials_in_the_address_of_a_registry_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDLINE_MODEL__REGISTRY", f"s3://key:{SECRET}@bucket/models")
    values = {name: value for name, value, _ in describe(load())}
    assert values["model.registry"] == f"s3://{MASK}@bucket/models"


@pytest.mark.parametrize("brokers", [f"kafka://user:{SECRET}@broker:9092", f"broker:9092,user:a/{SECRET}@broker:9092"])
def test_brokers_take_no_password_and_it_does_not_show(monkeypatch: pytest.MonkeyPatch, brokers: str) -> None:
    monkeypatch.setenv("FRAUDLINE_KAFKA__BROKERS", brokers)
    with pytest.raises(ConfigError, match=r"kafka\.brokers") as caught:
        load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h", "rediss://h:6380/2", "redis://user@h", "redis://[::1]:1/0", "unix:///s"])
def test_a_url_without_a_password_shows_as_it_is(url: str) -> None:
    assert shown_url(url) == url


def test_the_tree_is_frozen() -> None:
    loaded = load()
    with pytest.raises(ValidationError):
        loaded.kafka.group_id = "other"
    with pytest.raises(ValidationError):
        loaded.kafka = KafkaSettings()


def test_every_setting_can_be_set_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(KNOWN.secret) == len(describe(Settings()))
    for dotted, value, _ in describe(Settings()):
        if value and value != MASK:
            monkeypatch.setenv(variable(dotted), value)
    loaded = load()
    assert loaded.model_dump() == Settings().model_dump()
    assert "default" not in {origin for _, value, origin in describe(loaded) if value}
