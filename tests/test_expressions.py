"""Rules' expressions: true where a three-valued evaluation, one payment at a time, says true; refused with a place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalog import DEFAULT
from features.errors import ConfigError
from models.expressions import compiled
from models.facts import FIELDS, Facts

FEATURES = {"card_count_1h": False, "is_foreign": True, "hour": False}
NUMBERS = ("amount_minor", "event_time", "card_count_1h", "is_foreign", "hour", "score")
TEXTS = ("country", "card_country", "device_id")

floats = st.sampled_from([float("nan"), -1.0, 0.0, 0.1, 1.0, 2.5, 3.0, 1e12])
Row = dict[str, Any]
rows = st.fixed_dictionaries(
    dict.fromkeys((*FEATURES, "score"), floats)
    | {"amount_minor": st.integers(0, 4), "event_time": st.integers(0, 4)}
    | {name: st.sampled_from([None, "DE", "FR", "it's"]) for name in TEXTS}
)
Tree = tuple[Any, ...]


def constant(text: bool) -> st.SearchStrategy[Any]:
    return st.sampled_from(["DE", "FR", "it's"]) if text else st.sampled_from([-1, 0, 1, 2.5, 0.1, 3])


@st.composite
def leaves(draw: st.DrawFn) -> Tree:
    text = draw(st.booleans())
    names = TEXTS if text else NUMBERS
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["compare", "names", "in", "null", *([] if text else ["between", "flag"])]))
    op = draw(st.sampled_from(["=", "<>"] if text else ["=", "<>", "<", "<=", ">", ">="]))
    if kind == "compare":
        return ("compare", op, name, draw(constant(text)), draw(st.booleans()))
    if kind == "names":
        return ("names", op, name, draw(st.sampled_from(names)))
    if kind == "in":
        return ("in", name, draw(st.lists(constant(text), min_size=1, max_size=3)), draw(st.booleans()))
    if kind == "null":
        return ("null", name, draw(st.booleans()))
    if kind == "between":
        return ("between", name, draw(constant(False)), draw(constant(False)), draw(st.booleans()))
    return ("flag", "is_foreign")


trees = st.recursive(
    leaves(),
    lambda inner: (
        st.tuples(st.just("not"), inner)
        | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=8,
)


def spelled(tree: Tree) -> str:  # noqa: PLR0911  one a construct
    match tree:
        case ("not", inner):
            return f"not ({spelled(inner)})"
        case ("and" | "or", parts):
            return "(" + f" {tree[0]} ".join(map(spelled, parts)) + ")"
        case ("compare", op, name, value, mirrored):
            mirror = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
            return f"{quoted(value)} {mirror.get(op, op)} {name}" if mirrored else f"{name} {op} {quoted(value)}"
        case ("names", op, left, right):
            return f"{left} {op} {right}"
        case ("in", name, values, negated):
            return f"{name} {'not ' * negated}in ({', '.join(map(quoted, values))})"
        case ("null", name, negated):
            return f"{name} is {'not ' * negated}null"
        case ("between", name, low, high, negated):
            return f"{name} {'not ' * negated}between {quoted(low)} and {quoted(high)}"
    return str(tree[1])


def quoted(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def known(row: Row, name: str) -> Any:
    value = row[name]
    if isinstance(value, float):
        return None if math.isnan(value) else float(np.float32(value))
    return value


def compare(op: str, left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    return (
        bool({"=": left == right, "<>": left != right}[op])
        if op in "=<>" and op in ("=", "<>")
        else bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op])
    )


def negation(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def truth(tree: Tree, row: Row) -> bool | None:  # noqa: PLR0911  one a construct
    """Kleene's logic, as SQL has it."""
    match tree:
        case ("not", inner):
            return negation(truth(inner, row))
        case ("and", parts):
            found = [truth(part, row) for part in parts]
            return False if False in found else None if None in found else True
        case ("or", parts):
            found = [truth(part, row) for part in parts]
            return True if True in found else None if None in found else False
        case ("compare", op, name, value, _):
            literal = float(np.float32(value)) if name in (*FEATURES, "score") else value
            return compare(op, known(row, name), literal)
        case ("names", op, left, right):
            return compare(op, known(row, left), known(row, right))
        case ("in", name, values, negated):
            literals = [float(np.float32(value)) if name in (*FEATURES, "score") else value for value in values]
            inside = None if known(row, name) is None else known(row, name) in literals
            return negation(inside) if negated else inside
        case ("null", name, negated):
            return (known(row, name) is None) != negated
        case ("between", name, low, high, negated):
            literals = [float(np.float32(each)) if name in (*FEATURES, "score") else each for each in (low, high)]
            value = known(row, name)
            inside = None if value is None else literals[0] <= value <= literals[1]
            return negation(inside) if negated else inside
    value = known(row, tree[1])
    return None if value is None else value == 1


def facts(some: list[Row]) -> Facts:
    values = np.array([[row[name] for name in FEATURES] for row in some], np.float32).reshape(len(some), len(FEATURES))

    def field(name: str) -> Any:
        found = [row[name] for row in some]
        return np.array(found, np.int64) if FIELDS[name] == "number" else found

    return Facts(values, np.array([row["score"] for row in some], np.float32), field)


@given(trees, st.lists(rows, min_size=1, max_size=6))
def test_an_expression_fires_exactly_where_it_is_true(tree: Tree, some: list[Row]) -> None:
    flag = [row for row in some if math.isnan(row["is_foreign"]) or row["is_foreign"] in (0.0, 1.0)]
    expression = compiled(spelled(tree), FEATURES, where="here")
    mask = expression.test(facts(flag))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [truth(tree, row) is True for row in flag]


def test_missing_is_unknown_and_unknown_never_fires_not_even_negated() -> None:
    row = {name: float("nan") for name in FEATURES} | {"score": float("nan"), "amount_minor": 1, "event_time": 1}
    some = facts([row | dict.fromkeys(TEXTS)])
    for text in ("card_count_1h > 5", "not card_count_1h > 5", "card_count_1h <> 5", "not (card_count_1h in (1, 2))"):
        assert not compiled(text, FEATURES, where="here").test(some).any(), text
    for text in ("is_foreign", "not is_foreign", "country <> 'DE'", "country not in ('DE')", "country <> card_country"):
        assert not compiled(text, FEATURES, where="here").test(some).any(), text
    assert compiled("card_count_1h is null and country is null", FEATURES, where="here").test(some).all()
    assert compiled("card_count_1h > 5 or amount_minor = 1", FEATURES, where="here").test(some).all()


def test_large_whole_numbers_are_compared_exactly() -> None:
    row = dict.fromkeys(FEATURES, 0.0) | {"score": 0.0, "amount_minor": 2**53 + 1, "event_time": 0}
    some = facts([row | dict.fromkeys(TEXTS)])
    assert compiled(f"amount_minor = {2**53 + 1}", FEATURES, where="here").test(some).all()
    assert not compiled(f"amount_minor = {2**53}", FEATURES, where="here").test(some).any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("amount_minor >", "is no expression"),
        ("amount_minor > 5 and", "is no expression"),
        ("", "is no expression"),
        ("amount > 5", "line 1, column 1: `amount` is no field and no feature; perhaps amount_minor"),
        ("hour < 5 and\n  amont_minor > 5", "line 2, column 3: `amont_minor`"),
        ("amount_minor = 'much'", "compares amount_minor, a number, with a text; leave the quotes out"),
        ("country = 49", "compares country, a text, with a number; put it in single quotes"),
        ("country < 'M'", "orders texts"),
        ("country = hour", "compares country, a text, with hour, a number"),
        ("5 > 3", "compares no field and no feature"),
        ("amount_minor + 1 > 5", "can't be compared"),
        ("amount_minor = null", "is never equal to anything; write `is null`"),
        ("amount_minor", "is no flag; compare it with something"),
        ("hour", "is no flag"),
        ("length(country) = 2", "can't be compared"),
        ("country like 'D%'", "is no comparison"),
        ("hour in (1, hour)", "no names"),
        ("hour in (select 1)", "needs a list of values"),
        ("country in ('DE', 5)", "put it in single quotes"),
        ("country between 'A' and 'B'", "can't be ordered"),
        ("hour is true", "after `is` comes null or not null"),
        ("payments.hour = 1", "is not the name of a field or a feature"),
        ("case when hour = 1 then 1 end = 1", "can't be compared"),
        ("hour = 1; drop table payments", "is no comparison"),
        ("hour = 1e40", "is too large a number"),
        ("hour = " + "9" * 400, "is too large a number"),
        ("not " * 60 + "is_foreign", "is nested too deeply"),
        ("(" * 3_000 + "is_foreign" + ")" * 3_000, "has 6,010 characters"),
        ("exists (select 1)", "is no comparison"),
        ("*", "is no"),
    ],
)
def test_what_is_not_of_the_language_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        compiled(text, DEFAULT.flags, where="In policy.toml, rules[3].when")
    message = str(error.value)
    assert message.startswith("In policy.toml, rules[3].when")
    assert says in message, message
    assert message.endswith(".")
    assert "\n" not in message


def test_an_expression_tells_what_it_looks_at() -> None:
    expression = compiled("amount_minor > 5 and card_count_1h >= 2 or country is null", FEATURES, where="here")
    assert expression.names == {"amount_minor", "card_count_1h", "country"}
