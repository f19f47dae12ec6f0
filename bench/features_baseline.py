"""The features as pandas computes them: the work that `fraudline features build` is compared with.

It is what a careful person writes with pandas' documentation at hand. Each entity's payments are sorted once; a window
is `groupby(entity).rolling(window, on="time")`; what several features share is computed once; ids are factorised; means
and ratios are made from counts and sums that are there anyway; what pandas has no function for is a numba function in
`rolling.apply`, as the documentation advises; known frauds are two `merge_asof` of running counts, and delayed fraud
rates are the difference of two windows, as in the Fraud Detection Handbook.

All columns of the default catalog are covered. It is excused from much: no event id is looked for twice, a payment that
arrives late is a past one to those before it, a label is never reversed, delayed frauds are known the moment the delay
ends, and two payments of an entity in the same millisecond don't see each other where the own one is left out. Its
windows are exact where ours are bucketed. On payments in order, without repetitions, the columns agree but for that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from features.catalog import DAY_MS, DEFAULT, MONTH_MS, ROUND_AMOUNT_MINOR, Feature
from features.event import CHANNELS
from features.units import NEAR, SMALL_AMOUNT

Floats = npt.NDArray[np.float64]

COLUMN: Final = {
    "card": "card_id",
    "account": "account_id",
    "merchant": "merchant_id",
    "terminal": "terminal_id",
    "device": "device_id",
    "ip": "ip",
    "country": "country",
    "mcc": "mcc",
}
PAYMENT_COLUMNS: Final = ("event_id", "event_time", "amount_minor", "card_country", "channel", *COLUMN.values())
LABEL_COLUMNS: Final = ("event_id", "event_time", "labelled_at", "label", *list(COLUMN.values())[:6])
OWN: Final = "right"  # (t - window, t]: with the own payment
EARLIER: Final = "neither"  # (t - window, t)


@numba.njit(nogil=True)
def _distinct(codes: Floats) -> float:
    return float(np.unique(codes[codes >= 0]).size)


@numba.njit(nogil=True)
def _near_hour(of_day: Floats) -> float:
    """The share of all but the last that lie within two hours of the last, around the clock."""
    near, own = 0, of_day[-1]
    for each in of_day[:-1]:
        apart = abs(each - own)
        near += min(apart, DAY_MS - apart) <= NEAR
    return near / (of_day.size - 1) if of_day.size > 1 else np.nan


class EntityFrame:
    """One entity's payments, sorted by entity and time; every rolling computation is done once."""

    def __init__(self, payments: pd.DataFrame, labels: pd.DataFrame, entity: str) -> None:
        """Sort the payments that name the entity."""
        self._entity, self._key = entity, f"{entity}_code"
        named = payments[payments[self._key] >= 0]
        self.frame = named.sort_values([self._key, "time"], kind="stable")
        self._frauds = labels[(labels["label"] == "fraud") & labels[COLUMN[entity]].notna()]
        self._done: dict[tuple[object, ...], Floats] = {}

    def rolled(self, column: str, window_ms: int, how: str, closed: str = OWN, of: str | None = None) -> Floats:
        """(rows,) a rolling aggregate; `of` groups by a counterpart too."""
        key = (column, window_ms, how, closed, of)
        if key not in self._done:
            keys = [self._key] if of is None else [self._key, f"{of}_code"]
            order = np.lexsort([self.frame[each].to_numpy() for each in reversed(keys)])  # so that groups are runs
            frame = self.frame if of is None else self.frame.iloc[order]
            groups = frame.groupby(keys, sort=False)
            rolling = groups.rolling(pd.Timedelta(window_ms, unit="ms"), on="time", closed=closed)[column]
            found = rolling.std(ddof=0) if how == "std" else getattr(rolling, how)()
            values = np.empty(len(frame))
            values[order] = found.to_numpy(np.float64)
            self._done[key] = values
        return self._done[key]

    def applied(self, column: str, window_ms: int, function: Callable[[Floats], float]) -> Floats:
        """(rows,) a numba function of each window's values, the own one last."""
        rolling = self.frame.groupby(self._key, sort=False).rolling(pd.Timedelta(window_ms, unit="ms"), on="time")
        found = rolling[column].apply(function, raw=True, engine="numba")
        values: Floats = found.to_numpy(np.float64)
        return values

    def before(self, column: str) -> pd.Series:
        """The value of the entity's payment before."""
        return self.frame.groupby(self._key, sort=False)[column].shift()

    def frauds_known(self, window_ms: int) -> Floats:
        """(rows,) frauds of the window that are known: those that arrived, less those that arrived and left it."""
        arrived = self._frauds["labelled_at"].to_numpy()
        left = np.maximum(arrived, self._frauds["event_time"].to_numpy() + window_ms)
        return self._running(arrived) - self._running(left)

    def _running(self, moments: npt.NDArray[np.int64]) -> Floats:
        """(rows,) how many of the entity's frauds had their moment at or before each payment."""
        counts = pd.DataFrame({"id": self._frauds[COLUMN[self._entity]].to_numpy(), "event_time": moments})
        counts = counts.sort_values("event_time", kind="stable")
        counts["count"] = counts.groupby("id").cumcount() + 1
        asked = self.frame[[COLUMN[self._entity], "event_time"]].rename(columns={COLUMN[self._entity]: "id"})
        asked["row"] = np.arange(len(asked))
        found = pd.merge_asof(asked.sort_values("event_time", kind="stable"), counts, on="event_time", by="id")
        values: Floats = found.sort_values("row")["count"].fillna(0).to_numpy(np.float64)
        return values


def _windowed(frame: EntityFrame, feature: Feature) -> Floats | pd.Series:  # noqa: C901, PLR0911, PLR0912  a table
    """(rows,) one feature of an entity."""
    window, of, x = feature.window_ms, feature.of, frame.frame["amount_minor"].to_numpy(np.float64)

    def count(span: int) -> Floats:
        return frame.rolled("amount_minor", span, "count")

    def total(span: int) -> Floats:
        return frame.rolled("amount_minor", span, "sum")

    with np.errstate(divide="ignore", invalid="ignore"):
        match feature.op:
            case "count":
                return count(window)
            case "sum" | "max":
                return frame.rolled("amount_minor", window, feature.op)
            case "mean":
                return total(window) / count(window)
            case "std":
                return np.where(count(window) > 2, frame.rolled("amount_minor", window, "std", EARLIER), np.nan)
            case "small_count":
                return frame.rolled("small", window, "sum")
            case "amount_to_mean":
                return x * (count(window) - 1) / (total(window) - x)
            case "amount_to_max":
                return x / frame.rolled("amount_minor", window, "max", EARLIER)
            case "amount_to_min":
                return x / np.maximum(frame.rolled("amount_minor", window, "min", EARLIER), 1)
            case "amount_zscore":
                mean = (total(window) - x) / (count(window) - 1)
                return (x - mean) / frame.rolled("amount_minor", window, "std", EARLIER)
            case "distinct":
                return frame.applied(f"{of}_code", window, _distinct)
            case "same":
                earlier = frame.rolled("amount_minor", window, "count", OWN, of) - 1
                return np.where(frame.frame[f"{of}_code"] >= 0, earlier, np.nan)
            case "since_last":
                return _since_last(frame, window) / 1_000
            case "since_last_ratio":
                oldest = frame.frame["event_time"] - frame.rolled("event_time", window, "min", EARLIER)
                return _since_last(frame, window) * (count(window) - 1) / oldest
            case "velocity":
                return count(window) / ((count(MONTH_MS) - 1) * window / MONTH_MS)
            case "near_hour":
                return frame.applied("of_day", window, _near_hour)
            case "country_changed":
                changed = (frame.before("country_code") != frame.frame["country_code"]).astype(np.float64)
                return changed.where(frame.before("time").notna())
            case "frauds":
                return frame.frauds_known(window)
            case "fraud_rate":
                wide, delay = feature.delay_ms + window, feature.delay_ms
                frauds = frame.rolled("fraud", wide, "sum") - frame.rolled("fraud", delay, "sum")
                return frauds / (count(wide) - count(delay))
    raise KeyError(feature.op)


def _since_last(frame: EntityFrame, window_ms: int) -> pd.Series:
    gap = frame.frame["event_time"] - frame.before("event_time")
    return gap.where(gap < window_ms)


def _alone(payments: pd.DataFrame, op: str) -> pd.Series:  # noqa: PLR0911  a table
    """One feature of the payment alone."""
    amount, moment = payments["amount_minor"], payments["event_time"]
    match op:
        case "amount":
            return amount
        case "round_amount":
            return amount % ROUND_AMOUNT_MINOR == 0
        case "hour":
            return moment % DAY_MS / 3_600_000
        case "weekday":
            return payments["time"].dt.day_of_week
        case "channel":
            codes = payments["channel"].map({name: code for code, name in enumerate(CHANNELS, start=1)})
            return codes.fillna(len(CHANNELS) + 1).where(payments["channel"].notna())
        case "mcc":
            return pd.to_numeric(payments["mcc"])
        case "foreign":
            known = payments["country"].notna() & payments["card_country"].notna()
            return (payments["country"] != payments["card_country"]).astype(np.float64).where(known)
    raise KeyError(op)


def covered(features: Sequence[Feature] = DEFAULT.features) -> list[str]:
    """Names of the features that are computed here: all of the default catalog."""
    return [feature.name for feature in features]


def compute(payments: pd.DataFrame, labels: pd.DataFrame, features: Sequence[Feature] = DEFAULT.features) -> Any:
    """(n, features) float32 as a frame, in the order of `payments`.

    The frames have `PAYMENT_COLUMNS` and `LABEL_COLUMNS`; times are ms.
    """
    payments = _prepared(payments, labels)
    columns: dict[str, npt.NDArray[np.float32]] = {}
    frames: dict[str, EntityFrame] = {}
    for feature in features:
        if feature.entity is None:
            columns[feature.name] = _alone(payments, feature.op).to_numpy(np.float32)
            continue
        if feature.entity not in frames:
            frames = {feature.entity: EntityFrame(payments, labels, feature.entity)}
        frame = frames[feature.entity]
        column = np.full(len(payments), np.nan, np.float32)
        found = np.asarray(_windowed(frame, feature), np.float32)
        column[frame.frame.index.to_numpy()] = np.where(np.isfinite(found), found, np.nan)  # nothing by nothing
        columns[feature.name] = column
    return pd.DataFrame(columns)


def _prepared(payments: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    codes = {f"{name}_code": pd.factorize(payments[column])[0] for name, column in COLUMN.items()}
    frauds = labels.loc[labels["label"] == "fraud", "event_id"]
    return payments.reset_index(drop=True).assign(
        time=pd.to_datetime(payments["event_time"].to_numpy(), unit="ms"),
        of_day=payments["event_time"].to_numpy() % DAY_MS,
        small=(payments["amount_minor"].to_numpy() < SMALL_AMOUNT).astype(np.float64),
        fraud=payments["event_id"].isin(frauds).to_numpy(np.float64),
        **codes,
    )


def read(payments: Path, labels: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both Parquet files, the columns that are needed."""
    return (
        pd.read_parquet(payments, columns=list(PAYMENT_COLUMNS)),
        pd.read_parquet(labels, columns=list(LABEL_COLUMNS)),
    )


def warm_up(payments: Path, labels: Path) -> None:
    """Compile what numba compiles, which no one should count."""
    some, known = read(payments, labels)
    compute(some.head(2_000), known)


def seconds(payments: Path, labels: Path, features: Sequence[Feature] = DEFAULT.features) -> tuple[float, int]:
    """Read and compute once: wall seconds and the number of payments."""
    started = time.perf_counter()
    computed = compute(*read(payments, labels), features)
    return time.perf_counter() - started, len(computed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.features_baseline", description=__doc__.splitlines()[0])
    parser.add_argument("payments", type=Path, help="payments.parquet")
    parser.add_argument("labels", type=Path, help="labels.parquet")
    args = parser.parse_args()
    warm_up(args.payments, args.labels)
    took_s, n = seconds(args.payments, args.labels)
    print(f"{len(covered())} columns, {n:,} payments: {took_s:.1f} s, {n / took_s:,.0f} payments/s")


if __name__ == "__main__":
    main()
