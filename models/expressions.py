"""The language of rules: boolean expressions over a payment's fields, its features and its score, in SQL's spelling.

    amount_minor > 50000 and card_count_1h >= 5
    country <> card_country and not (channel in ('pos', 'atm'))
    merchant_fraud_rate_30d between 0.05 and 0.2 or device_id is null

Comparisons (`=`, `<>`, `<`, `<=`, `>`, `>=`), `between`, `in`, `is null`, `and`, `or`, `not` and parentheses; nothing
else. A side of a comparison is a name, a number or a text. A flag may stand alone. A name that is a field and a
feature is the field.

Truth has three values, as in SQL: a comparison with what is missing is unknown, and unknown never fires. It is compiled
without a third value: `not` is pushed down to the comparisons (De Morgan), and each of those is compiled to where it is
true, or to where it is false. Features are compared in float32, as they are.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import sqlglot
from sqlglot import expressions as sql
from sqlglot.errors import SqlglotError

from features.errors import ConfigError
from models.facts import ABSENT, FIELDS, SCORE, Facts, Kind

Mask = npt.NDArray[np.bool_]
Test = Callable[[Facts], Mask]
Op = Literal["=", "<>", "<", "<=", ">", ">="]

MAX_CHARACTERS: Final = 4_000
MAX_DEPTH: Final = 50

_OPS: Final[dict[type[sql.Expression], Op]] = {
    sql.EQ: "=",
    sql.NEQ: "<>",
    sql.LT: "<",
    sql.LTE: "<=",
    sql.GT: ">",
    sql.GTE: ">=",
}
_OPPOSITE: Final[dict[Op, Op]] = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED: Final[dict[Op, Op]] = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _unequal(left: Any, right: Any) -> Any:
    """NaN is unequal to everything for numpy, and unknown here."""
    return (left < right) | (left > right)


_COMPARE: Final[dict[Op, Callable[[Any, Any], Any]]] = {
    "=": np.equal,
    "<>": _unequal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression: `test` says of each payment whether it is true; `names` are what it looks at."""

    text: str
    test: Test
    names: frozenset[str]


def compiled(text: str, features: Mapping[str, bool], *, where: str) -> Expression:
    """Check and compile an expression.

    Args:
        text: the expression.
        features: by name, whether it is a flag; in the order of the columns.
        where: what errors call the place of the text.

    Raises:
        ConfigError: it is not of this language, names what there is not, or compares what can't be compared; the
            sentence names the place.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where} has {len(text):,} characters; write at most {MAX_CHARACTERS:,}.")
    try:
        tree: Any = sqlglot.parse_one(text, dialect="postgres")
    except SqlglotError as error:
        raise ConfigError(f"{where} is no expression ({_reason(error)}); mend it there.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; split it into several rules.") from None
    compiler = _Compiler(features, text, where)
    test = compiler.boolean(tree, True, 0)
    return Expression(text, test, frozenset(compiler.names))


def _reason(error: SqlglotError) -> str:
    details = getattr(error, "errors", None)
    if not details:
        return "it can't be read"
    first = details[0]
    return f"line {first['line']}, column {first['col']}: {str(first['description']).rstrip('.').lower()}"


@dataclass(frozen=True, slots=True)
class _Name:
    """A column: how to get it, and what it holds."""

    name: str
    kind: Kind
    get: Callable[[Facts], Any]


class _Compiler:
    """Turns a tree into functions. `wanted` is the truth that a function looks for: true, or false."""

    def __init__(self, features: Mapping[str, bool], text: str, where: str) -> None:
        self._features, self._text, self._where = features, text, where
        self._columns = {name: column for column, name in enumerate(features)}
        self.names: set[str] = set()

    def boolean(self, node: sql.Expression, wanted: bool, depth: int) -> Test:  # noqa: PLR0911  one a construct
        if depth > MAX_DEPTH:
            raise ConfigError(f"{self._where} is nested too deeply; split it into several rules.")
        match node:
            case sql.Paren():
                return self.boolean(node.this, wanted, depth + 1)
            case sql.Not():
                return self.boolean(node.this, not wanted, depth + 1)
            case sql.And() | sql.Or():
                parts = [self.boolean(each, wanted, depth + 1) for each in _flat(node)]
                return _all(parts) if isinstance(node, sql.And) == wanted else _any(parts)
            case sql.Between():
                return self._between(node, wanted)
            case sql.In():
                return self._in(node, wanted)
            case sql.Is():
                return self._is_null(node, wanted)
            case sql.Column():
                return self._flag(node, wanted)
            case _ if type(node) in _OPS:
                return self._comparison(node, wanted)
        raise self._wrong(node, "is no comparison; use =, <>, <, <=, >, >=, between, in, is null, and, or, not")

    def _comparison(self, node: sql.Expression, wanted: bool) -> Test:
        op = _OPS[type(node)] if wanted else _OPPOSITE[_OPS[type(node)]]
        left, right = self._side(node.this), self._side(node.expression)
        if not isinstance(left, _Name):
            left, right, op = right, left, _MIRRORED[op]
        if not isinstance(left, _Name):
            raise self._wrong(node, "compares no field and no feature; name one")
        if isinstance(right, _Name):
            if left.kind != right.kind:
                raise self._wrong(node, f"compares {left.name}, a {left.kind}, with {right.name}, a {right.kind}")
            return self._two_names(node, left, op, right)
        self._check_literal(node, left, right)
        return self._with_literal(node, left, op, right)

    def _two_names(self, node: sql.Expression, left: _Name, op: Op, right: _Name) -> Test:
        a, b = left.get, right.get
        if left.kind == "number":
            compare = _COMPARE[op]
            return lambda facts: compare(a(facts), b(facts))
        self._check_text_op(node, op)
        same = op == "="
        return lambda facts: _mask(
            [x is not None and y is not None and (x == y) == same for x, y in zip(a(facts), b(facts), strict=True)]
        )

    def _with_literal(self, node: sql.Expression, name: _Name, op: Op, literal: float | str) -> Test:
        get = name.get
        if name.kind == "number":
            compare = _COMPARE[op]
            return lambda facts: compare(get(facts), literal)
        self._check_text_op(node, op)
        return self._among(name, (str(literal),), op == "=")

    def _between(self, node: sql.Between, wanted: bool) -> Test:
        name = self._name(node.this)
        bounds = [self._side(node.args[side]) for side in ("low", "high")]
        if name.kind != "number" or any(isinstance(bound, _Name | str) for bound in bounds):
            raise self._wrong(node, "can't be ordered; between is for a number and two numbers")
        get, (low, high) = name.get, bounds
        if wanted:
            return lambda facts: (get(facts) >= low) & (get(facts) <= high)
        return lambda facts: (get(facts) < low) | (get(facts) > high)

    def _in(self, node: sql.In, wanted: bool) -> Test:
        name = self._name(node.this)
        if not node.expressions or node.args.get("query") is not None:
            raise self._wrong(node, "needs a list of values in parentheses")
        values = [self._side(each) for each in node.expressions]
        for value in values:
            if isinstance(value, _Name):
                raise self._wrong(node, "may have numbers or texts in its list, and no names")
            self._check_literal(node, name, value)
        get = name.get
        if name.kind == "number":
            numbers = [value for value in values if not isinstance(value, _Name | str)]
            compare, join = (np.equal, operator.or_) if wanted else (_unequal, operator.and_)
            return lambda facts: reduce(join, [compare(get(facts), number) for number in numbers])
        return self._among(name, tuple(value for value in values if isinstance(value, str)), wanted)

    def _among(self, name: _Name, texts: tuple[str, ...], wanted: bool) -> Test:
        """Where a text field is one of these texts; or is there, and is none of them."""

        def test(facts: Facts) -> Mask:
            codes, code_of = facts.codes(name.name)
            found: Mask = reduce(operator.or_, [codes == code_of(text) for text in texts])
            return found if wanted else ~found & (codes != ABSENT)

        return test

    def _is_null(self, node: sql.Is, wanted: bool) -> Test:
        if not isinstance(node.expression, sql.Null):
            raise self._wrong(node, "is no comparison; after `is` comes null or not null")
        name = self._name(node.this)
        get = name.get
        if name.kind == "number":
            return (lambda facts: np.isnan(get(facts))) if wanted else (lambda facts: ~np.isnan(get(facts)))
        return lambda facts: (facts.codes(name.name)[0] == ABSENT) == wanted

    def _flag(self, node: sql.Column, wanted: bool) -> Test:
        name = self._name(node)
        if not self._features.get(name.name, False) or name.name in FIELDS:
            raise self._wrong(node, "is no flag; compare it with something")
        get, value = name.get, np.float32(wanted)
        return lambda facts: get(facts) == value

    def _side(self, node: sql.Expression) -> _Name | float | str:
        match node:
            case sql.Paren():
                return self._side(node.this)
            case sql.Column():
                return self._name(node)
            case sql.Literal():
                return str(node.this) if node.is_string else self._number(node)
            case sql.Neg(this=sql.Literal() as literal) if not literal.is_string:
                return -self._number(literal)
            case sql.Null():
                raise self._wrong(node, "is never equal to anything; write `is null`")
        raise self._wrong(node, "can't be compared; use a name, a number or a text")

    def _number(self, node: sql.Literal) -> float:
        """A whole number stays one, so that whole fields are compared exactly."""
        text = str(node.this)
        try:
            number = int(text) if text.isdecimal() else float(text)
        except ValueError:  # as 1e2.5
            raise self._wrong(node, "is no number") from None
        if not np.isfinite(np.float32(min(number, 2**62))) or number > 2**62:
            raise self._wrong(node, "is too large a number")
        return number

    def _name(self, node: sql.Expression) -> _Name:
        while isinstance(node, sql.Paren):
            node = node.this
        if not isinstance(node, sql.Column) or isinstance(node.this, sql.Star) or len(node.parts) != 1:
            raise self._wrong(node, "is not the name of a field or a feature")
        name = node.name
        self.names.add(name)
        if name in FIELDS:
            kind = FIELDS[name]
            return _Name(name, kind, lambda facts: facts.field(name))
        if name == SCORE:
            return _Name(name, "number", lambda facts: facts.score)
        if name in self._columns:
            column = self._columns[name]
            return _Name(name, "number", lambda facts: facts.feature(column))
        near = difflib.get_close_matches(name, [*FIELDS, SCORE, *self._columns], n=1)
        hint = f"; perhaps {near[0]} is meant" if near else "; fraudline features list tells the features"
        raise self._wrong(node, f"is no field and no feature{hint}", mended=True)

    def _check_literal(self, node: sql.Expression, name: _Name, literal: float | str | _Name) -> None:
        if name.kind == "number" and isinstance(literal, str):
            raise self._wrong(node, f"compares {name.name}, a number, with a text; leave the quotes out")
        if name.kind == "text" and not isinstance(literal, str):
            raise self._wrong(node, f"compares {name.name}, a text, with a number; put it in single quotes")

    def _check_text_op(self, node: sql.Expression, op: Op) -> None:
        if op not in ("=", "<>"):
            raise self._wrong(node, "orders texts; compare texts with =, <> or in")

    def _wrong(self, node: sql.Expression, problem: str, *, mended: bool = False) -> ConfigError:
        place = next((each.meta for each in node.walk() if "col" in each.meta), None)
        at = ""
        if place:
            column = place["start"] - self._text.rfind("\n", 0, place["start"])
            at = f" at line {place['line']}, column {column}"
        text = node.sql(dialect="postgres")[:80]
        end = "" if mended else "; mend it there" if ";" not in problem else ""
        return ConfigError(f"{self._where}{at}: `{text}` {problem}{end}.")


def _flat(node: sql.Expression) -> list[sql.Expression]:
    """The parts of a chain of the same connective: `a and b and c` is one step deep, not two."""
    kind, parts, rest = type(node), [], [node]
    while rest:
        each = rest.pop()
        if type(each) is kind:
            rest += [each.expression, each.this]
        else:
            parts.append(each)
    return parts


def _all(parts: Sequence[Test]) -> Test:
    return lambda facts: reduce(operator.and_, [part(facts) for part in parts])


def _any(parts: Sequence[Test]) -> Test:
    return lambda facts: reduce(operator.or_, [part(facts) for part in parts])


def _mask(truths: list[bool]) -> Mask:
    return np.array(truths, np.bool_)
