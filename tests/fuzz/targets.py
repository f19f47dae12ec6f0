"""All fuzz targets, by name."""

from __future__ import annotations

from typing import Final

from consumer.settings import KNOWN
from consumer.settings_source import variable
from features.event import Label, Payment
from models.facts import FIELDS
from tests.fuzz import bundles, configuring, decoding, mappings, rules
from tests.fuzz.target import Target


def _quoted(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in names)


def _words(text: str) -> tuple[bytes, ...]:
    return tuple(text.encode().split())


_DOTTED: Final = tuple(name.encode() for name in KNOWN.names())
_SQL: Final = _words(
    "and or not between in is null = <> < <= > >= ( ) + - * / % || :: . .. ; -- /* */ $1 ? @ case when then else end "
    "like any all exists select from cast coalesce interval date now() array row true false unknown 1e5 0x1f 1_0 "
    "0.1 .5 5. 1e-400 E'x' $$x$$ U&'x' b'1' collate at time zone distinct ilike similar to isnull notnull lateral"
)
_TOML: Final = _words("[[rules]] [lists.deny] [limiter] [alert_rate] [thresholds.small] nan inf -inf 0x10 1979-05-27")

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        Target("payment", decoding.check_payment, 4_000, _quoted(Payment.__struct_fields__), 70_000),
        Target("label", decoding.check_label, 3_000, _quoted(Label.__struct_fields__), 70_000),
        Target("settings_file", configuring.check_toml, 300, _DOTTED),
        Target(
            "settings_environment",
            configuring.check_environment,
            300,
            tuple(variable(n).encode() for n in KNOWN.names()),
        ),
        Target("manifest", bundles.check_manifest, 2_000, _words("inf nan 1e400 [[1.5]] created_ms metrics")),
        Target("ubj", bundles.check_ubj, 1_500, _words("[$l# [$d# [#U [#L {i\x01a T F Z N [$i#U\xff"), 16_384),
        Target("bundle", bundles.check_bundle, 6, (), 64),
        Target("policy", rules.check_policy, 700, (*_TOML, *_SQL, *(name.encode() for name in FIELDS))),
        Target("expression", rules.check_expression, 1_200, (*_SQL, *(name.encode() for name in FIELDS)), 600),
        Target("list_record", rules.check_list, 2_000, _words('"ip" "deny" "allow" 10.0.0.0/8 ::/0 "expires_at":')),
        Target("field_map", mappings.check, 700, _words("* + 7d 1000000d 'USD' label. 1e9 999999999999.9 =")),
    )
}
