"""Guards of what comes in: records that can't be decided, and settings that can't be meant."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_DECODE: Final = "consumer/decode.py"
_SECTIONS: Final = "consumer/settings_sections.py"
_DECODED: Final = "tests/test_decode.py"
_LABELS: Final = "tests/test_decode_labels.py"
_SETTINGS: Final = "tests/test_settings.py"
_BAD: Final = f"{_DECODED}::test_a_bad_record_is_rejected_with_its_reason"
_CARD: Final = "4: no card number is taken for a token"
_LETTER: Final = "1: what can't be decided is a dead letter"
_EARLY: Final = "a wrong setting is refused at the start"

INPUT: Final = (
    Guard(
        "refusing a card number in a payment",
        _CARD,
        _DECODE,
        "if looks_like_card_number(payment.card_id):",
        "if False:",
        (_BAD,),
    ),
    Guard(
        "refusing a card number in a label",
        _CARD,
        _DECODE,
        "if looks_like_card_number(label.card_id):",
        "if False:",
        (f"{_LABELS}::test_a_bad_label_is_rejected_with_its_reason",),
    ),
    Guard(
        "the check digit",
        "a token of digits is no card number",
        _DECODE,
        "return total % 10 == 0",
        "return True",
        (f"{_DECODED}::test_a_wrong_check_digit_makes_a_token",),
    ),
    Guard(
        "looking through separators",
        _CARD,
        _DECODE,
        'digits = text if text.isalnum() else _SEPARATORS.sub("", text)',
        "digits = text",
        (f"{_DECODED}::test_a_card_number_is_seen_through_separators",),
    ),
    Guard(
        "refusing a payment from the future",
        "2: no event poisons its entities' clocks",
        _DECODE,
        "elif payment.event_time > timestamp_ms + self._max_future_ms:",
        "elif False:",
        (f"{_DECODED}::test_the_future_begins_after_the_records_own_time",),
    ),
    Guard(
        "refusing a label of a payment to come",
        "2: no event poisons its entities' clocks",
        _DECODE,
        "if label.event_time > min(label.labelled_at, known_ms):",
        "if False:",
        (f"{_LABELS}::test_a_bad_label_is_rejected_with_its_reason",),
    ),
    Guard(
        "counting payments that are too late for every window",
        "a late payment is placed by its time, and counted",
        "consumer/account.py",
        "telemetry.too_late.inc(int(np.count_nonzero(-ahead_ms > self._longest_ms)))",
        "telemetry.too_late.inc(0)",
        ("tests/test_pipeline.py::test_a_payment_older_than_every_window_is_scored_and_counted",),
    ),
    Guard(
        "refusing a key that is there twice",
        "1: a record means one thing",
        _DECODE,
        "if len({key for key, _ in pairs}) != len(pairs):",
        "if False:",
        (f"{_DECODED}::test_a_repeated_key_is_always_found",),
    ),
    Guard(
        "looking twice where there are more commas than fields",
        "1: a record means one thing",
        _DECODE,
        'if value.count(b",") != _commas_expected(payment):',
        "if False:",
        (f"{_DECODED}::test_a_repeated_key_is_always_found",),
    ),
    Guard(
        "the limit of depth",
        _LETTER,
        _DECODE,
        "if _deeper(value, MAX_DEPTH):",
        "if False:",
        (f"{_DECODED}::test_the_verdict_on_depth_does_not_depend_on_the_callers_stack",),
    ),
    Guard(
        "the limit of size",
        "5: memory is bounded",
        _DECODE,
        "if len(value) > self._max_bytes:",
        "if False:",
        (f"{_DECODED}::test_the_limit_of_size_counts_bytes_and_is_inclusive",),
    ),
    Guard(
        "refusing an unknown currency",
        _LETTER,
        _DECODE,
        "if payment.currency not in CURRENCIES:",
        "if False:",
        (_BAD,),
    ),
    Guard(
        "not quoting a value that is none of those allowed",
        "4: no payload in an error",
        _DECODE,
        'if text.startswith("Invalid enum value"):',
        "if False:",
        (f"{_LABELS}::test_a_rejected_word_is_not_told",),
    ),
    Guard(
        "cutting a dead letter to what a broker takes",
        "1: one record can't stop a partition",
        "consumer/publish.py",
        "value = _cut(message.value(), DEAD_LETTER_LIMIT_BYTES, TRUNCATED, headers)",
        "value = message.value()",
        ("tests/test_publish.py::test_no_dead_letter_is_too_large_for_a_broker",),
    ),
    Guard(
        "a limit of bad records in a row",
        "nothing but bad input stops the processor",
        "consumer/flood.py",
        "if count > self._most:",
        "if False:",
        ("tests/test_pipeline.py::test_a_flood_of_bad_records_stops_at_a_limit_and_one_payment_ends_it",),
    ),
    Guard(
        "a batch that was not committed counts once in a flood",
        "a batch that is repeated is judged alike",
        "consumer/flood.py",
        "self._reasons = self._pending",
        "pass",
        ("tests/test_pipeline.py::test_a_flood_of_bad_records_stops_at_a_limit_and_one_payment_ends_it",),
    ),
    Guard(
        "refusing unknown variables",
        _EARLY,
        "consumer/settings.py",
        "    refuse_unknown_variables(os.environ, KNOWN)\n",
        "",
        (f"{_SETTINGS}::test_an_unknown_variable_is_refused_with_the_nearest_name",),
    ),
    Guard(
        "a topic for each role",
        _EARLY,
        _SECTIONS,
        "if topic in seen:",
        "if False:",
        (f"{_SETTINGS}::test_values_out_of_bounds_are_refused",),
    ),
    Guard(
        "a batch waits only inside the budget",
        _EARLY,
        _SECTIONS,
        "if self.linger_ms >= self.budget_ms:",
        "if False:",
        (f"{_SETTINGS}::test_values_out_of_bounds_are_refused",),
    ),
    Guard(
        "the bounds of a transaction's time-out",
        "an abandoned transaction stalls readers for a minute at most",
        _SECTIONS,
        "transaction_timeout_ms: Annotated[int, Field(ge=5_000, le=60_000)]",
        "transaction_timeout_ms: Annotated[int, Field(ge=1)]",
        (f"{_SETTINGS}::test_values_out_of_bounds_are_refused",),
    ),
    Guard(
        "the bound of a batch",
        "5: memory is bounded",
        _SECTIONS,
        "max_batch: Annotated[int, Field(ge=1, le=4_096)]",
        "max_batch: Annotated[int, Field(ge=1)]",
        (f"{_SETTINGS}::test_values_out_of_bounds_are_refused",),
    ),
    Guard(
        "a cluster needs shards",
        _EARLY,
        _SECTIONS,
        "if self.cluster and self.shards < MIN_CLUSTER_SHARDS:",
        "if False:",
        (f"{_SETTINGS}::test_a_half_configured_store_is_refused",),
    ),
    Guard(
        "no SASL without its protocol",
        _EARLY,
        _SECTIONS,
        'elif idle := self._present(("sasl_mechanism", *needed, *unused)):',
        "elif idle := []:",
        (f"{_SETTINGS}::test_half_configured_tls_and_sasl_are_refused",),
    ),
    Guard(
        "no secret to a token endpoint in the clear",
        "4: no secret leaves",
        _SECTIONS,
        "if self.sasl_oauth_token_url is not None and not _is_private(self.sasl_oauth_token_url):",
        "if False:",
        (f"{_SETTINGS}::test_half_configured_tokens_are_refused",),
    ),
    Guard(
        "a required signature needs keys",
        _EARLY,
        _SECTIONS,
        'if self.signature == "required" and not self.trusted_keys:',
        "if False:",
        (f"{_SETTINGS}::test_half_configured_signatures_are_refused",),
    ),
)
