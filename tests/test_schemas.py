"""The schemas are those of the types, the shipped files are the schemas, and the page on records says the same."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from consumer.decode import REASONS, Decoder
from consumer.publish import HEADERS_DROPPED, KEY_TRUNCATED, TRUNCATED
from consumer.records import alert_id, json_schemas
from consumer.settings import ProcessingSettings, TopicSettings
from tests.documents import DOCS, EXAMPLES, RECORDS, section, table
from tests.poison import FULL, POISON, VALID, Poison, Record

SCHEMAS = json_schemas()
REGENERATE = "stale: run `fraudline schemas --out docs/schemas`"


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(SCHEMAS[name])


def test_the_shipped_files_are_the_schemas() -> None:
    shipped = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / "schemas").iterdir()}
    assert shipped == {f"{name}.schema.json": schema for name, schema in SCHEMAS.items()}, REGENERATE


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_its_example_fits(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    validator(name).validate(EXAMPLES[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_allows_fields_of_a_later_version_and_misses_those_of_this(name: str) -> None:
    example: dict[str, Any] = EXAMPLES[name]
    validator(name).validate(example | {"later": {"x": 1}})
    for field in SCHEMAS[name]["required"]:
        assert not validator(name).is_valid({key: value for key, value in example.items() if key != field})


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_description_depends_on_the_interpreter(name: str) -> None:
    for described in (SCHEMAS[name], *SCHEMAS[name].get("$defs", {}).values()):
        assert all(line == line.strip() for line in described["description"].splitlines())


def test_the_payments_schema_takes_what_the_decoder_takes() -> None:
    for good in (VALID, FULL, VALID | {"x": 1}, VALID | dict.fromkeys(FULL.keys() - VALID.keys())):
        validator("payments").validate(good)


# A schema sees a parsed document, and takes 1250.0 and 1e3 for integers.
JUDGED = [
    poison
    for poison in POISON
    if poison.reason in {"missing_field", "wrong_type", "out_of_range", "not_an_object"}
    and poison.name not in {"an amount as a whole float", "an amount with an exponent"}
    and (poison.value or b"").count(b"[") < 1_000
]


@pytest.mark.parametrize("poison", JUDGED, ids=lambda poison: poison.name)
def test_the_payments_schema_refuses_what_the_decoder_refuses(poison: Poison) -> None:
    document = json.loads(poison.value or b"", parse_int=lambda digits: int(digits[:30]))
    assert not validator("payments").is_valid(document)


def test_the_example_payment_is_accepted_and_names_the_example_alert() -> None:
    payment, alert, decision = EXAMPLES["payments"], EXAMPLES["alerts"], EXAMPLES["decisions"]
    processing = ProcessingSettings()
    decoder = Decoder(max_payment_bytes=processing.max_payment_bytes, max_future_ms=processing.max_future_ms)
    assert decoder.decode([Record(json.dumps(payment).encode())]).rejected == []
    assert alert["alert_id"] == alert_id(payment["card_id"], payment["event_id"], payment["event_time"])
    assert {key: alert[key] for key in alert.keys() & payment.keys()} == {
        key: payment[key] for key in alert.keys() & payment.keys()
    }
    same = alert.keys() & decision.keys() - {"model"}
    assert {key: alert[key] for key in same} == {key: decision[key] for key in same}
    assert decision["model"] == f"{alert['model']['name']}@{alert['model']['version']}"


def test_the_page_lists_every_reason() -> None:
    assert [reason for (reason,) in table("reason")] == list(REASONS)


@pytest.mark.parametrize("name", ["payments", "decisions", "alerts"])
def test_the_page_names_every_field(name: str) -> None:
    properties = set(SCHEMAS[name]["properties"])
    text = section(name).partition("| field |")[2].partition("\n\n")[0]
    first_cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert {part.strip("|` ") for cell in first_cells for part in cell.split(",")} == properties


def test_the_page_names_every_header_topic_and_limit() -> None:
    headers = {name for row in table("header") for name in row}
    assert {TRUNCATED, KEY_TRUNCATED, HEADERS_DROPPED} < headers
    connect = ("topic", "partition", "offset", "stage", "class.name", "exception.message")
    assert {f"__connect.errors.{name}" for name in connect} < headers
    assert [name for (name,) in table("topic (default name)")] == [topic for _, topic in TopicSettings()]
    processing = ProcessingSettings()
    assert f"{processing.max_payment_bytes:,}" in RECORDS
    assert f"`processing.max_future_ms` ({processing.max_future_ms // 60_000} min)" in RECORDS
