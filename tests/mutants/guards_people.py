"""Guards of people: what is never shown, who may read and change, and that changes are told."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_LOGS: Final = "consumer/logs.py"
_MASKING: Final = "consumer/masking.py"
_ACCESS: Final = "consumer/dashboard/access.py"
_GUARD: Final = "consumer/dashboard/guard.py"
_APPLICATION: Final = "consumer/dashboard/application.py"
_BOARD: Final = "consumer/dashboard/board.py"
_AUDIT: Final = "consumer/audit.py"
_LOGGED: Final = "tests/test_logs.py"
_MASKED: Final = "tests/test_masking.py"
_WEB: Final = "tests/test_dashboard_web.py"
_BOARDED: Final = "tests/test_dashboard_board.py"
_DLQ: Final = "tests/test_dlq.py"
_NOTHING: Final = "4: no card number, payload or secret in a log"
_READERS: Final = "4: alerts are read by readers only"
_TOLD: Final = "no change without a record of it"
_AGAIN: Final = "1: a dead letter is sent again once"

PEOPLE: Final = (
    Guard(
        "names whose values are never logged",
        _NOTHING,
        _LOGS,
        "REDACTED if is_sensitive(key) else plain(value, depth)",
        "plain(value, depth)",
        (f"{_LOGGED}::test_sensitive_keys_are_never_rendered",),
    ),
    Guard(
        "masking card numbers in logs",
        _NOTHING,
        _LOGS,
        'return REDACTED if passes_luhn("".join(c for c in match.group() if c.isdigit())) else match.group()',
        "return match.group()",
        (f"{_LOGGED}::test_a_card_number_inside_any_text_is_masked",),
    ),
    Guard(
        "masking card numbers that are numbers",
        _NOTHING,
        _LOGS,
        "return REDACTED if _is_card_number(value) else int(value)",
        "return int(value)",
        (f"{_LOGGED}::test_a_card_number_that_came_as_a_number_is_masked",),
    ),
    Guard(
        "no message of an error that is not ours",
        _NOTHING,
        _LOGS,
        "        if isinstance(error, FraudlineError):\n            event[",
        "        if True:\n            event[",
        (f"{_LOGGED}::test_the_message_of_any_other_error_is_not_told",),
    ),
    Guard(
        "no answer of a token endpoint",
        _NOTHING,
        _LOGS,
        "    handler.addFilter(_no_answers)\n",
        "",
        ("tests/test_canary_secrets.py::test_what_a_token_endpoint_answers_is_not_logged",),
    ),
    Guard(
        "masking card numbers that are shown",
        "4: no card number is shown",
        _MASKING,
        "return printable(without_card_numbers(text))",
        "return printable(text)",
        (f"{_MASKED}::test_no_card_number_is_shown",),
    ),
    Guard(
        "escaping what steers a terminal",
        "text of others steers no terminal",
        _MASKING,
        "return printable(without_card_numbers(text))",
        "return without_card_numbers(text)",
        (f"{_MASKED}::test_nothing_steers_a_terminal",),
    ),
    Guard(
        "masking secrets in the settings that are shown",
        "4: no secret is shown",
        "consumer/settings.py",
        'return shown_url(value.get_secret_value()) if dotted == "store.url" else MASK',
        "return value.get_secret_value()",
        (f"{'tests/test_settings.py'}::test_secrets_are_masked_however_the_settings_are_shown",),
    ),
    Guard(
        "a token for every reader",
        _READERS,
        _ACCESS,
        'return Reader("token", ambient=True) if self._holds(request.cookies.get(COOKIE, "")) else None',
        'return Reader("token", ambient=True)',
        (f"{_WEB}::test_without_a_token_nothing_is_told",),
    ),
    Guard(
        "the token is compared",
        _READERS,
        _ACCESS,
        "if self._token and hmac.compare_digest(token.strip().encode(), self._token):",
        "if self._token:",
        (f"{_WEB}::test_a_forged_token_is_refused_and_not_repeated",),
    ),
    Guard(
        "the signature of a session",
        _READERS,
        _ACCESS,
        "if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):",
        "if False:",
        (f"{_WEB}::test_a_forged_session_is_refused",),
    ),
    Guard(
        "the end of a session",
        _READERS,
        _ACCESS,
        'return int(body.partition(".")[0]) > self._clock()',
        "return True",
        (f"{_WEB}::test_a_session_ends",),
    ),
    Guard(
        "a pause after wrong tokens",
        _READERS,
        _ACCESS,
        "if failures >= FAILURES:",
        "if False:",
        (f"{_WEB}::test_after_too_many_wrong_tokens_the_right_one_is_not_heard_either_for_a_while",),
        errors=("KeyError",),
    ),
    Guard(
        "a bound of remembered failures",
        "5: memory is bounded",
        _ACCESS,
        "if len(self._failures) > MAX_CLIENTS:",
        "if False:",
        (f"{_WEB}::test_failures_are_forgotten_after_a_while_and_their_table_is_bounded",),
    ),
    Guard(
        "a header is believed of trusted proxies only",
        _READERS,
        _ACCESS,
        "if not self.trusted(request) or len(given) != 1:",
        "if len(given) != 1:",
        (f"{_WEB}::test_whoever_does_not_come_through_the_proxy_is_refused",),
    ),
    Guard(
        "no page for everybody on an address that others reach",
        _READERS,
        _ACCESS,
        'if self.way == "none" and not loopback(dashboard.host):',
        "if False:",
        (f"{_WEB}::test_settings_that_would_let_everybody_in_are_refused",),
    ),
    Guard(
        "the Host header",
        "another site's name that leads here is not answered",
        _GUARD,
        "if self._only_this_machine and not self._names_this_machine(request):",
        "if False:",
        (f"{_WEB}::test_another_site_s_name_that_leads_here_is_not_answered",),
    ),
    Guard(
        "where a change comes from",
        "another site can't give verdicts",
        _GUARD,
        'if request.scope["method"] not in SAFE and not _from_here(request):',
        "if False:",
        (f"{_WEB}::test_another_site_can_not_give_verdicts",),
    ),
    Guard(
        "the safe headers",
        "text of others does not run in a browser",
        _GUARD,
        "headers[name] = value",
        "pass",
        (f"{_WEB}::test_every_answer_has_the_safe_headers",),
        errors=("KeyError",),
    ),
    Guard(
        "the limit of a body",
        "5: memory is bounded",
        _APPLICATION,
        "if len(body) > MAX_BODY_BYTES:",
        "if False:",
        (f"{_WEB}::test_what_is_no_verdict_is_refused",),
    ),
    Guard(
        "verdicts only where they are switched on",
        "a page is read-only unless it is told otherwise",
        _APPLICATION,
        "if verdicts is not None:\n            routes.append",
        "if True:\n            routes.append",
        (f"{_WEB}::test_a_page_is_read_only_unless_it_is_told_otherwise",),
    ),
    Guard(
        "so many streams and no more",
        "5: memory is bounded",
        "consumer/dashboard/streams.py",
        "if self._open >= self._most or self._closing:",
        "if self._closing:",
        (f"{_WEB}::test_only_so_many_streams_are_open_and_a_place_is_free_again_when_one_ends",),
    ),
    Guard(
        "so many alerts are kept and no more",
        "5: memory is bounded",
        _BOARD,
        "if len(self._alerts) > self._keep:",
        "if False:",
        (f"{_BOARDED}::test_the_newest_alerts_are_kept_and_everything_that_belongs_to_older_ones_goes",),
    ),
    Guard(
        "so many decisions are kept and no more",
        "5: memory is bounded",
        _BOARD,
        "if len(table) > most:",
        "if False:",
        (f"{_BOARDED}::test_memory_is_bounded_whatever_comes",),
    ),
    Guard(
        "no alert of a card number is shown",
        "4: no card number is shown",
        _BOARD,
        'if looks_like_card_number(card_id or "-"):',
        "if False:",
        (f"{_BOARDED}::test_a_record_of_a_card_number_is_not_shown",),
    ),
    Guard(
        "an alert that comes again is one alert",
        "a duplicate is shown once",
        _BOARD,
        "if alert.alert_id in self._alerts:",
        "if False:",
        (f"{_BOARDED}::test_an_alert_that_comes_again_is_one_alert",),
    ),
    Guard(
        "an intention before the change",
        _TOLD,
        _AUDIT,
        "    try:\n        trail.write(entry)\n",
        "    try:\n        pass\n",
        ("tests/test_audit.py::test_what_can_not_be_announced_is_not_done",),
    ),
    Guard(
        "the outcome of a change",
        _TOLD,
        _AUDIT,
        'trail.write(_with(entry, "done", found))',
        "pass",
        ("tests/test_audit.py::test_a_change_is_announced_before_and_settled_after",),
        errors=("ValueError",),
    ),
    Guard(
        "the failure of a change",
        _TOLD,
        _AUDIT,
        'trail.write(_with(entry, "failed", {"error": why}))',
        "pass",
        ("tests/test_audit.py::test_a_change_that_fails_says_so_and_a_bug_does_not_tell_its_message",),
    ),
    Guard(
        "the bound of audit records that wait",
        "5: memory is bounded",
        "consumer/kafka/audit.py",
        "if len(self._waiting) >= WAITING:",
        "if False:",
        ("tests/test_audit.py::test_audit_records_that_wait_are_bounded",),
    ),
    Guard(
        "the mark of a dead letter that was sent again",
        _AGAIN,
        "consumer/kafka/redrive.py",
        "Outgoing(self._topic, own.key(), None, mark_of(letter, now_ms), partition=letter.place[0]),",
        "",
        (f"{_DLQ}::test_dead_letters_are_sent_again_once_each_however_often_it_is_killed_and_decided_once",),
    ),
    Guard(
        "one redrive at a time",
        _AGAIN,
        "consumer/kafka/redrive.py",
        'f"{kafka.group_id}-{ID}"',
        'f"{kafka.group_id}-{ID}-{time.time_ns()}"',
        (f"{_DLQ}::test_a_redrive_that_was_overtaken_sends_nothing_more",),
    ),
    Guard(
        "a redrive waits for marks that are not visible yet",
        _AGAIN,
        "consumer/kafka/redrive.py",
        "waits=True",
        "waits=False",
        (f"{_DLQ}::test_a_redrive_waits_for_marks_behind_a_transaction_that_is_still_open",),
    ),
    Guard(
        "a card number is never sent again",
        "4: a card number gets into no other topic",
        "consumer/redrive.py",
        'NEVER: Final = frozenset(("card_number",))',
        "NEVER: Final = frozenset[str]()",
        (f"{_DLQ}::test_what_would_be_refused_again_is_not_sent_and_says_why",),
    ),
)
