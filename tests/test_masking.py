"""What is shown of bytes of others: no card number, and nothing that steers a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.decode import looks_like_card_number
from consumer.masking import shown
from tests.poison import CARD_NUMBER, WIDE_CARD_NUMBER, payment

AMERICAN = "378282246310005"


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    digits = draw(st.lists(st.integers(0, 9), min_size=11, max_size=18))
    for last in range(10):
        number = "".join(map(str, [*digits, last]))
        if looks_like_card_number(number):
            return number
    raise AssertionError(digits)


@given(
    card_numbers(),
    st.sampled_from(["", " ", "-", ".", "\t", "\x00", ", "]),
    st.integers(1, 8),
    st.text("ab{}:", max_size=3),
)
def test_no_card_number_is_shown(number: str, separator: str, size: int, around: str) -> None:
    written = separator.join(number[at : at + size] for at in range(0, len(number), size))
    told = shown(f'{{"card": "x{around}{written}{around}y"}}'.encode())
    assert number[:-4] not in re.sub(r"\W|x00|t", "", told)
    assert number[-4:] in re.sub(r"[^0-9*]", "", told.replace("x00", ""))


@pytest.mark.parametrize(
    "text",
    [
        f'{{"card_id":"{CARD_NUMBER}"}}',
        f'{{"pans":["{CARD_NUMBER}","{AMERICAN}"]}}',
        f'[{CARD_NUMBER},1,2,"{AMERICAN}"]',
        f"{CARD_NUMBER}{AMERICAN}",
        "".join(f"\\u003{digit}" for digit in CARD_NUMBER),
        WIDE_CARD_NUMBER,
        f"1 {CARD_NUMBER} 2",
        "4111---1111---1111---1111",
        r"4111\u00201111\u00201111\u20111111",
        r"4111\t1111\t1111\n1111",
    ],
)
def test_however_it_is_written(text: str) -> None:
    told = shown(text.encode())
    for number in (CARD_NUMBER, AMERICAN, WIDE_CARD_NUMBER):
        assert number[:8] not in re.sub(r"\\u....|\\[nt]|\W", "", told)
    assert "*" in told


def test_what_is_no_card_number_stays() -> None:
    value = payment(event_id="evt-1", card_id="tok_8f2a")
    assert shown(value) == value.decode()


def test_nothing_steers_a_terminal() -> None:
    assert shown(b"\x1b[2J\xff\x07\n\xe2\x80\xae") == "\\x1b[2J\\xff\\x07\\n\\u202e"


def test_a_megabyte_of_digits_takes_no_longer_than_any() -> None:
    assert shown(b"4" * 900_000) == "*" * 899_996 + "4444"
