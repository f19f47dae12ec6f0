"""Every metric: its name, type, unit and what to do about it; and the histogram that takes whole batches.

Nothing else spells a metric's name. Labels hold fixed words only, never an id of a card, merchant or payment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

STAGES: Final = ("decode", "enrich", "score", "decide", "publish", "commit")
TIERS: Final = ("full", "small", "no_features", "rules_only")
DECISIONS: Final = ("approve", "review", "block")
REBALANCES: Final = ("assign", "revoke", "lost")
OUTCOMES: Final = ("committed", "aborted", "lost")

# 0.2 is the budget: the share of payments inside it must be readable without interpolation.
END_TO_END_BUCKETS_S: Final = (
    (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
)  # fmt: skip
STAGE_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
AGE_BUCKETS_S: Final = (1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800, 2_592_000)
LABEL_WORDS: Final = ("fraud", "genuine")
LABEL_SOURCES: Final = ("chargeback", "analyst", "customer", "issuer")
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, what it counts in which unit, and what an operator does about it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    unit: str
    labels: tuple[str, ...]
    action: str


END_TO_END = Metric(
    "fraudline_end_to_end_seconds", "histogram", "From a payment's Kafka timestamp to the commit of its decision.",
    "seconds", (), "Above 0.2 for 0.1 % of payments: see which stage grew, then lag, then add replicas.",
)  # fmt: skip
STAGE = Metric(
    "fraudline_stage_seconds", "histogram", "Time that a batch spent in each stage.",
    "seconds", ("stage",), "enrich: look at Redis; score: at CPU limits; commit and publish: at the brokers.",
)  # fmt: skip
BATCH_SIZE = Metric(
    "fraudline_batch_size", "histogram", "Records in a micro-batch.",
    "records", (), "At max_batch all the time: the worker is saturated; add replicas.",
)  # fmt: skip
PAYMENTS = Metric(
    "fraudline_payments_total", "counter", "Records taken from the payments topic: decided, rejected or duplicate.",
    "records", (), "Flat while producers send: see lag and readiness. It equals decisions + rejected + duplicates.",
)  # fmt: skip
DECISIONS_MADE = Metric(
    "fraudline_decisions_total", "counter", "Decisions committed, by outcome and by the tier that made them.",
    "payments", ("decision", "tier"), "Any tier but full: the store or the model is out; see store_up and the log.",
)  # fmt: skip
ALERTS = Metric(
    "fraudline_alerts_total", "counter", "Alerts committed.",
    "alerts", (), "A jump or a drop against last week: an attack, or drift; look at the alerts' reasons.",
)  # fmt: skip
REJECTED = Metric(
    "fraudline_rejected_total", "counter", "Records sent to the dead-letter topic, by stage and reason.",
    "records", ("stage", "reason"), "Rising: a producer changed; read the dead letters' headers.",
)  # fmt: skip
DUPLICATES = Metric(
    "fraudline_duplicates_total", "counter", "Payments whose event_id had been decided before; not decided again.",
    "payments", (), "Rising: a producer retries without idempotence; harmless here.",
)  # fmt: skip
LATE = Metric(
    "fraudline_late_total", "counter", "Payments whose decision was committed after their budget.",
    "payments", (), "Rising with lag: add replicas. Rising without: see stage seconds for a stall.",
)  # fmt: skip
TOO_LATE = Metric(
    "fraudline_too_late_total", "counter", "Payments older than every window when they came; scored all the same.",
    "payments", (), "Rising: a source delivers a backlog or its clock is wrong; see the clock skew.",
)  # fmt: skip
LABELS = Metric(
    "fraudline_labels_total", "counter", "Labels taken into the state, by label and by who gave it.",
    "labels", ("label", "source"), "Flat for days: chargebacks no longer arrive, and fraud rates go stale.",
)  # fmt: skip
CLOCK_SKEW = Metric(
    "fraudline_clock_skew_seconds", "gauge",
    "How far event times run ahead of the broker's clock, by partition: moving average of each batch's largest.",
    "seconds", ("partition",), "Above 1: a source's clock is ahead; at max_future_ms its payments are dead-lettered.",
)  # fmt: skip
FEATURE_AGE = Metric(
    "fraudline_feature_age_seconds", "histogram", "Age of the card's newest earlier payment when one is scored.",
    "seconds", (), "A jump to long ages: state was lost, or another mix of cards.",
)  # fmt: skip
STATE_AGE = Metric(
    "fraudline_state_age_seconds", "gauge", "Now less the Kafka timestamp of the newest record in the state.",
    "seconds", (), "Growing while payments come: features are of the past; see store_up.",
)  # fmt: skip
LABELS_LAG = Metric(
    "fraudline_labels_lag_records", "gauge", "Labels between the committed offsets and the ends of our partitions.",
    "records", (), "Growing: as for lag seconds.",
)  # fmt: skip
LAG_SECONDS = Metric(
    "fraudline_lag_seconds", "gauge",
    "Age of the newest decided payment while others wait, at the time of the scrape; 0 when none waits.",
    "seconds", (), "Growing: the worker is slower than the producers; add replicas up to the partition count.",
)  # fmt: skip
LAG_RECORDS = Metric(
    "fraudline_lag_records", "gauge", "Records between the committed offsets and the ends of the assigned partitions.",
    "records", (), "Growing: as for lag seconds.",
)  # fmt: skip
ASSIGNED = Metric(
    "fraudline_assigned_partitions", "gauge", "Partitions of payments that this process reads.",
    "partitions", (), "0 on one replica: it stands by. 0 on all of them: nobody reads; see the brokers and the group.",
)  # fmt: skip
REBALANCED = Metric(
    "fraudline_rebalances_total", "counter", "Partition assignments that were given, revoked or lost.",
    "rebalances", ("kind",), "Any lost: the loop stalled past the session timeout; look for CPU throttling.",
)  # fmt: skip
TRANSACTIONS = Metric(
    "fraudline_transactions_total", "counter", "Transactions by outcome; lost means that the outcome was unknown.",
    "transactions", ("outcome",), "Aborted or lost above a few an hour: the brokers are slow or failing over.",
)  # fmt: skip
STATE_REGRESSIONS = Metric(
    "fraudline_state_regressions_total", "counter", "Times that the store was found behind the committed offsets.",
    "events", (), "Any: Redis lost writes; check persistence, failover and maxmemory-policy.",
)  # fmt: skip
STATE_CHECKS = Metric(
    "fraudline_state_checks_total", "counter", "Committed records that were looked for in an entity's log, by result.",
    "records", ("result",), "Any mismatch: fraudline state verify tells how many, state rebuild mends.",
)  # fmt: skip
CHECK_RESULTS: Final = ("equal", "mismatch", "unverifiable")
STATE_CAUGHT_UP = Metric(
    "fraudline_state_caught_up_records_total", "counter", "Records applied again to the store without being decided.",
    "records", (), "Rising: state is being rebuilt; decisions are no_features meanwhile.",
)  # fmt: skip
STORE_UP = Metric(
    "fraudline_store_up", "gauge", "1 while the store answers inside its share of the budget, else 0.",
    "bool", (), "0: check Redis; with outage = pause nothing is decided meanwhile.",
)  # fmt: skip
RULES_FIRED = Metric(
    "fraudline_rules_fired_total", "counter", "Decided payments for which a rule or a list fired.",
    "payments", ("rule", "kind"), "A jump: an attack, or a rule that is too wide; kind shadow decides nothing yet.",
)  # fmt: skip
UNEXPLAINED = Metric(
    "fraudline_alerts_unexplained_total", "counter", "Alerts that left without reasons because there was no time.",
    "alerts", (), "Many: more alerts at once than can be explained; see alert_rate, or give the pod more CPU.",
)  # fmt: skip
BLOCKS_LIMITED = Metric(
    "fraudline_blocks_limited_total", "counter", "Payments reviewed instead of blocked, by the decline limiter.",
    "payments", (), "Any: a rule or the model blocks too much; look at rules_fired and the scores, then the policy.",
)  # fmt: skip
REVIEW_THRESHOLD = Metric(
    "fraudline_review_threshold", "gauge", "The score from which payments are reviewed now, outside of segments.",
    "probability", (), "At a bound of alert_rate: the rate can't be held; change the bounds, the rate or the model.",
)  # fmt: skip
LISTS_VERSION = Metric(
    "fraudline_lists_version", "gauge", "Up to where the lists topic was read; 0 without lists.",
    "offset", (), "Different among the replicas for long: one does not hear of changes; restart it.",
)  # fmt: skip
MODEL_INFO = Metric(
    "fraudline_model_info", "gauge", "Always 1; the labels name the model that scores, and on what.",
    "info", ("name", "version", "digest", "device"),
    "More than one digest among the replicas for long: a roll-out is stuck.",
)  # fmt: skip
MODEL_SWAPS = Metric(
    "fraudline_model_swaps_total", "counter",
    "Bundles that the registry named, by what became of them: swapped in, or refused while the old one stays.",
    "bundles", ("result",), "Any refused: the log says why; fraudline model rollback, or promote a sound one.",
)  # fmt: skip
SWAP_RESULTS: Final = ("swapped", "refused")
REGISTRY_UP = Metric(
    "fraudline_model_registry_up", "gauge", "1 while the model registry answers, or where none is set; else 0.",
    "bool", (), "0: promotions are not seen; decisions go on with the model that is loaded.",
)  # fmt: skip
SHADOW_DECISIONS = Metric(
    "fraudline_shadow_decisions_total", "counter", "Payments that champion and challenger judged, by both decisions.",
    "payments", ("champion", "challenger"), "Much beside the diagonal: look at fraudline shadow report.",
)  # fmt: skip
CANARY_SHARE = Metric(
    "fraudline_canary_share", "gauge", "The share of cards for which the challenger decides now.",
    "ratio", (), "0 while a canary should run: it was rolled back; see canary_rollbacks.",
)  # fmt: skip
CANARY_ROLLBACKS = Metric(
    "fraudline_canary_rollbacks_total", "counter", "Canaries that this process ended because a guard was passed.",
    "canaries", (), "Any: the log and challenger.json of the registry say which guard; the champion decides again.",
)  # fmt: skip
DEVICE_FALLBACKS = Metric(
    "fraudline_device_fallbacks_total", "counter", "Payments scored on the CPU because the GPU had no room for them.",
    "payments", (), "Any: another process uses the GPU, or processing.max_batch is too large for it.",
)  # fmt: skip
FEATURE_PSI = Metric(
    "fraudline_feature_psi", "gauge", "How far a feature is from what it was in training (PSI), over a window.",
    "index", ("feature", "window"), "Above 0.25 for a day: fraudline drift report; train again if it is the world.",
)  # fmt: skip
MISSING_SHIFT = Metric(
    "fraudline_feature_missing_shift", "gauge", "The share of a feature that is missing, less its share in training.",
    "ratio", ("feature", "window"), "A jump: a producer has stopped to send a field, or the state was lost.",
)  # fmt: skip
SCORE_PSI = Metric(
    "fraudline_score_psi", "gauge", "How far the scores are from those that the bundle gave when it was made (PSI).",
    "index", ("window",), "Above 0.25: thresholds no longer alert as often as was chosen; see which features moved.",
)  # fmt: skip
BUILD_INFO = Metric(
    "fraudline_build_info", "gauge", "Always 1; the labels name the running build.",
    "info", ("version", "python"), "More than one version for long: a roll-out is stuck.",
)  # fmt: skip
HEARTBEAT = Metric(
    "fraudline_heartbeat_timestamp_seconds", "gauge", "When the processing loop last turned, in Unix time.",
    "seconds", (), "Old while the pod runs: the loop hangs; the liveness probe restarts it.",
)  # fmt: skip

DASHBOARD_STREAMS = Metric(
    "fraudline_dashboard_streams", "gauge", "Browsers that follow the alert page now.",
    "streams", (), "At dashboard.max_streams: raise it, or see who opens them; further ones are told to come back.",
)  # fmt: skip
DASHBOARD_STREAMS_REFUSED = Metric(
    "fraudline_dashboard_streams_refused_total", "counter", "Streams refused because max_streams were open.",
    "streams", (), "As for streams.",
)  # fmt: skip
DASHBOARD_RECORDS = Metric(
    "fraudline_dashboard_records_total", "counter", "Records that the alert page has read, unreadable ones included.",
    "records", ("kind",), "Flat while the processors publish: the page is stale; see its log.",
)  # fmt: skip
DASHBOARD_UNREADABLE = Metric(
    "fraudline_dashboard_unreadable_total", "counter", "Records that are not what their topic is for, or too new.",
    "records", ("kind",), "Any: another program writes to the topic, or the page is older than the processors.",
)  # fmt: skip
DASHBOARD_SILENT = Metric(
    "fraudline_dashboard_silent_seconds", "gauge", "Since the brokers were last heard of.",
    "seconds", (), "Above 30: the page shows what it had, and says so; check the brokers.",
)  # fmt: skip
DASHBOARD_VERDICTS = Metric(
    "fraudline_dashboard_verdicts_total", "counter", "Analysts' verdicts, by what became of them.",
    "verdicts", ("result",), "Any failed: labels could not be written; check the brokers and the page's rights.",
)  # fmt: skip
DASHBOARD_REFUSED = Metric(
    "fraudline_dashboard_refused_total", "counter", "Requests refused for a missing or wrong token or proxy header.",
    "requests", (), "Rising: a wrong token is in use somewhere, or somebody tries.",
)  # fmt: skip
VERDICT_RESULTS: Final = ("acknowledged", "repeated", "failed")

DASHBOARD_METRICS: Final[tuple[Metric, ...]] = (
    DASHBOARD_STREAMS, DASHBOARD_STREAMS_REFUSED, DASHBOARD_RECORDS, DASHBOARD_UNREADABLE, DASHBOARD_SILENT,
    DASHBOARD_VERDICTS, DASHBOARD_REFUSED,
)  # fmt: skip

METRICS: Final[tuple[Metric, ...]] = (
    STATE_CHECKS,
    END_TO_END, STAGE, BATCH_SIZE, PAYMENTS, DECISIONS_MADE, ALERTS, REJECTED, DUPLICATES, LATE, LAG_SECONDS,
    LAG_RECORDS, ASSIGNED, REBALANCED, TRANSACTIONS, STATE_REGRESSIONS, STATE_CAUGHT_UP, STORE_UP, MODEL_INFO,
    BUILD_INFO, HEARTBEAT, TOO_LATE, LABELS, CLOCK_SKEW, FEATURE_AGE, STATE_AGE, LABELS_LAG,
    RULES_FIRED, BLOCKS_LIMITED, REVIEW_THRESHOLD, LISTS_VERSION,
    UNEXPLAINED, MODEL_SWAPS, REGISTRY_UP, SHADOW_DECISIONS, CANARY_SHARE, CANARY_ROLLBACKS,
    FEATURE_PSI, MISSING_SHIFT, SCORE_PSI, DEVICE_FALLBACKS,
)  # fmt: skip


class BatchHistogram(Collector):
    """A Prometheus histogram without labels that takes a whole batch at a time, about 0.01 µs a value.

    Safe to use from several threads: a scrape sees whole batches.
    """

    def __init__(self, metric: Metric, bounds: Sequence[float]) -> None:
        """`bounds` are the upper, inclusive bounds of the buckets, rising; +Inf is added."""
        self._metric = metric
        self._bounds = np.asarray(bounds, np.float64)
        if len(self._bounds) == 0 or not np.all(np.diff(self._bounds) > 0):
            raise ValueError("the bounds of a histogram must rise")
        self._labels = [*(floatToGoString(bound) for bound in self._bounds), "+Inf"]  # type: ignore[no-untyped-call]  # its lack
        self._counts = np.zeros(len(self._bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe_many(self, values: npt.NDArray[np.float64]) -> None:
        """Count `values`, shape (n,), in the metric's unit; none may be NaN."""
        places = np.searchsorted(self._bounds, values, side="left")
        counts = np.bincount(places, minlength=len(self._counts))
        total = float(values.sum())
        with self._lock:
            self._counts += counts
            self._sum += total

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The samples as `prometheus_client` would have exported them."""
        with self._lock:
            cumulative = np.cumsum(self._counts)
            total = self._sum
        family = HistogramMetricFamily(self._metric.name, self._metric.help)
        buckets = list(zip(self._labels, (float(count) for count in cumulative), strict=True))
        family.add_metric([], buckets, total)
        yield family
