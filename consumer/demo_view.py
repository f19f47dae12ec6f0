"""What the demo shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumer.records import Alert
from consumer.score_card import ScoreCard, Summary
from features.currencies import exponent


class LiveView:
    """A view that is redrawn in place; on something that is no terminal only the last state is shown."""

    def __init__(self, console: Console, card: ScoreCard, payments: int, *, enabled: bool) -> None:
        """Show `card` until `payments` are answered; nothing at all unless `enabled`."""
        self._card, self._payments = card, payments
        self._live = Live(console=console, auto_refresh=False, transient=False) if enabled else None

    def refresh(self) -> None:
        """Draw what is known now."""
        if self._live:
            self._live.update(self._render(), refresh=True)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._live:
            self._live.stop()
            if not self._live.console.is_terminal:
                self._live.console.line()  # rich ends the last state's line on terminals only

    def _render(self) -> RenderableType:
        p50, p99 = self._card.recent()
        caught, false_alarms = self._card.caught()
        head = Text.assemble(
            (f"{self._card.answered:,}", "bold"),
            f" of {self._payments:,} payments decided   ",
            (f"{self._card.rate():,.0f}/s", "bold"),
            f"   p50 {_ms(p50)}   p99 {_ms(p99)}   ",
            (f"{caught} frauds caught", "bold green"),
            f", {false_alarms} false alarms",
        )
        return Group(head, _alerts(self._card.latest_alerts))


def _alerts(alerts: Iterable[Alert]) -> Table:
    table = Table(title="Latest alerts", title_justify="left", expand=True)
    for name in ("Decision", "Score", "Amount", "Card", "Merchant", "Why"):
        table.add_column(name, justify="right" if name in {"Score", "Amount"} else "left", no_wrap=name != "Why")
    for alert in reversed(list(alerts)):
        table.add_row(*_row(alert))
    return table


def _row(alert: Alert) -> tuple[Text | str, ...]:
    style = "bold red" if alert.decision == "block" else "yellow"
    why = "; ".join(reason.text for reason in alert.reasons[:2])
    if alert.rules:
        why = ", ".join((*(f"rule {rule}" for rule in alert.rules), *([why] if why else [])))
    return (
        Text(alert.decision, style=style),
        "" if alert.score is None else f"{alert.score:.3f}",
        money(alert.amount_minor, alert.currency),
        Text(alert.card_id),
        Text(alert.merchant_id),
        Text(why),
    )


def money(amount_minor: int, currency: str) -> str:
    """An amount as people write it, with as many decimals as the currency has."""
    decimals = exponent(currency)
    return f"{amount_minor / 10**decimals:,.{decimals}f} {currency}"


def summary_table(summary: Summary) -> Table:
    """The whole run in one table."""
    table = Table(title="Summary", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = {
        "payments": f"{summary.payments:,}",
        "decisions": f"{summary.decisions:,}",
        "decided more than once": f"{summary.duplicates:,}",
        "dead letters": f"{summary.dead_letters:,}",
        "alerts": f"{summary.alerts:,}",
        "frauds caught": f"{summary.frauds_caught:,} of {summary.frauds:,} (recall {_share(summary.recall)})",
        "false alarms": f"{summary.false_alarms:,} (precision {_share(summary.precision)})",
        "p50, produce to decision read": _ms(summary.p50_ms),
        "p99": _ms(summary.p99_ms),
        "slowest": _ms(summary.max_ms),
        "within 200 ms": _share(summary.within_budget),
        "payments a second": f"{summary.throughput_eps:,.0f}",
        "tiers": ", ".join(f"{tier} {count:,}" for tier, count in summary.tiers.items()),
        "delivery": summary.delivery,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
