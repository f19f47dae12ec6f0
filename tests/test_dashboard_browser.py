"""The alert page in headless Chromium: what people see, hear and can do, and what a hostile record can not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Request, expect, sync_playwright
from playwright.sync_api import Page as Tab

from features.event import Label
from tests.support.browser import CHROMIUM
from tests.support.page import NOW_MS, TOKEN, Page, alert, decision, now_ms, served, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
HOSTILE = "<img src=x onerror=\"window.ran=1;alert('ran')\"><script>window.ran=1</script>${window.ran=1}"
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    flags = ["--host-resolver-rules=MAP fraud.test 127.0.0.1"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page with alerts of all kinds; a test adds some of its own and takes none away."""
    with served(verdicts=True) as made:
        made.show(
            alert("e-review", merchant_id="m_first"),
            alert("e-block", decision="block", score=0.93, rules=("list_deny",), amount_minor=90_000, currency="JPY"),
            alert("e-rules", tier="rules_only", score=None, reasons=(), rules=("too_many",), card_id="tok_2"),
        )
        made.tail.feed("decisions", *(decision(f"d-{number}") for number in range(40)))
        made.tail.feed("decisions", decision("e-review", decision="review"))
        made.wait(lambda: made.dashboard.board.payment("d-39"))
        yield made


@contextmanager
def tab(browser: Browser, page: Page, *, width: int = 1_280, height: int = 800, **context: Any) -> Iterator[Tab]:
    """The page in a tab of its own; what its console complains of, or asks of another host, fails the test."""
    complaints: list[str] = []
    allowed = context.pop("allowed", ())

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(each in message.text for each in allowed):
            complaints.append(message.text)

    def requested(request: Request) -> None:
        if not request.url.startswith(page.address):
            complaints.append(f"asked for {request.url}")

    made = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", **context)
    try:
        opened = made.new_page()
        opened.set_default_timeout(PATIENCE_MS)
        opened.on("console", console)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", requested)
        opened.goto(page.address)
        yield opened
    finally:
        made.close()
    assert complaints == []


def rows(opened: Tab) -> Any:
    return opened.locator("#rows tr")


def events(opened: Tab) -> list[str]:
    return [str(each) for each in rows(opened).evaluate_all("rows => rows.map(row => row.dataset.event)")]


def test_alerts_are_there_and_come_by_themselves(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        expect(opened.locator("#state-text")).to_have_text("Live")
        row = opened.locator("tr[data-event=e-block]")
        expect(row).to_contain_text("block")
        expect(row).to_contain_text("0.930")
        expect(row).to_contain_text("90,000JPY")
        expect(row).to_contain_text("list_deny")
        expect(row).to_contain_text("4 payments under 5.00 in 24 hours with this card")
        page.show(alert("e-live", amount_minor=12_345, currency="KWD"))
        expect(rows(opened).first).to_contain_text("12.345KWD")


def test_filters_choose_what_is_shown_and_what_comes(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        opened.get_by_label("Decision").select_option("block")
        expect(rows(opened)).to_have_count(1)
        page.show(alert("e-not-chosen"), alert("e-chosen", decision="block", score=0.5))
        expect(rows(opened)).to_have_count(2)
        assert events(opened) == ["e-chosen", "e-block"]
        opened.get_by_label("Score from").fill("0.9")
        expect(rows(opened)).to_have_count(1)
        opened.get_by_label("Amount from").fill("90001")
        expect(opened.locator("#empty")).to_have_text("No alert is like that.")
        opened.get_by_role("button", name="Clear").click()
        opened.get_by_label("Reason or rule").fill("TOO_MANY")
        expect(rows(opened).first).to_have_attribute("data-event", "e-rules")
        expect(rows(opened)).to_have_count(1)
        opened.get_by_role("button", name="Clear").click()
        expect(rows(opened).nth(3)).to_be_visible()
        opened.get_by_label("Find an id").fill("TOK_2")
        expect(rows(opened)).to_have_count(1)
        expect(opened.locator("#counted")).to_have_text("1 alert is shown.")


def test_a_value_that_can_not_be_asked_for_is_said(chromium: Browser, page: Page) -> None:
    with tab(chromium, page, allowed=("400",)) as opened:
        opened.get_by_label("Score from").fill("-1")
        expect(opened.get_by_role("alert")).to_have_text("min_score must be a number of 0 or more.")
        opened.get_by_label("Score from").fill("0")
        expect(opened.locator("#notice")).to_be_hidden()


def test_pause_holds_the_list_and_tells_how_many_wait(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        expect(opened.locator("#state-text")).to_have_text("Live")
        shown = events(opened)
        opened.get_by_role("button", name="Pause").click()
        expect(opened.locator("#state-text")).to_have_text("Paused")
        page.show(alert("e-paused-1"), alert("e-paused-2"))
        expect(opened.locator("#waiting")).to_have_text("2 new alerts: show")
        assert events(opened) == shown
        opened.get_by_role("button", name="Go on").click()
        expect(rows(opened).first).to_have_attribute("data-event", "e-paused-2")
        expect(opened.locator("#waiting")).to_be_hidden()


def test_whoever_reads_further_down_is_not_moved(chromium: Browser, page: Page) -> None:
    page.show(*(alert(f"e-long-{number}") for number in range(40)))
    with tab(chromium, page, height=500) as opened:
        rows(opened).nth(30).scroll_into_view_if_needed()
        opened.evaluate("document.activeElement.blur()")
        opened.wait_for_function("scrollY > 400")
        before = events(opened)[0]
        page.show(alert("e-below"))
        opened.locator("#waiting").click()
        expect(rows(opened).first).to_have_attribute("data-event", "e-below")
        assert before != "e-below"
        assert opened.evaluate("scrollY") == 0


def test_older_alerts_are_a_click_away(chromium: Browser) -> None:
    with served() as page:
        page.show(*(alert(f"e-{number}") for number in range(130)))
        with tab(chromium, page) as opened:
            expect(rows(opened)).to_have_count(100)
            opened.get_by_role("button", name="Older alerts").click()
            expect(rows(opened)).to_have_count(130)
            assert events(opened) == [f"e-{number}" for number in reversed(range(130))]
            expect(opened.get_by_role("button", name="Older alerts")).to_be_hidden()
            expect(opened.locator("tr[data-event=e-29] a")).to_be_focused()


def test_a_payment_has_a_page_of_its_own(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        opened.locator("tr[data-event=e-review] a").click()
        expect(opened.get_by_role("heading", level=1)).to_have_text("Payment e-review")
        expect(opened.get_by_role("heading", level=1)).to_be_focused()
        assert opened.title() == "Payment e-review - Fraudline"
        chart = opened.get_by_role("table", name="Features that raised the score most")
        first = chart.get_by_role("row").nth(1)
        assert [each.strip() for each in first.get_by_role("cell").all_inner_texts()][1:3] == ["4", "+2.83"]
        widths = chart.locator("rect:not(.base)").evaluate_all(
            "bars => bars.map(bar => Number(bar.getAttribute('width')))"
        )
        assert widths[0] == 100
        assert widths[1] == pytest.approx(100 * 0.8035 / 2.8316, abs=0.1)
        expect(chart.get_by_role("row").nth(3)).to_contain_text("missing")
        for text in ("card_small_count_24h 4 → 2", "payments/0 @ 50495", "sequence 50495", "fraudline@1", "17.18 GBP",
                     "reviewed from 0.0051, blocked from 0.1330", "c1" * 32):  # fmt: skip
            expect(opened.locator("#payment")).to_contain_text(text)
        opened.go_back()
        expect(opened.locator("tr[data-event=e-review] a")).to_be_focused()


def test_a_payment_that_raised_no_alert_and_one_that_nobody_knows(chromium: Browser, page: Page) -> None:
    with tab(chromium, page, allowed=("404",)) as opened:
        opened.goto(f"{page.address}#payment=d-7")
        expect(opened.locator("#payment")).to_contain_text("approve")
        expect(opened.locator("#payment")).to_contain_text("published with alerts only")
        opened.goto(f"{page.address}#payment=nobody%E2%80%99s%2F..%2F")
        expect(opened.locator("#payment")).to_contain_text("This page does not know that payment, or no longer.")


def test_what_is_known_of_a_card_is_a_click_away(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        opened.goto(f"{page.address}#payment=e-rules")
        opened.get_by_role("link", name="its alerts").first.click()
        expect(rows(opened)).to_have_count(1)
        assert events(opened) == ["e-rules"]


def test_a_verdict_is_given_and_shown_as_acknowledged(chromium: Browser) -> None:
    with served(verdicts=True) as page, tab(chromium, page, allowed=("503",)) as opened:
        page.show(alert("e-1"))
        rows(opened).first.get_by_role("link").click()
        told = opened.locator("#verdict-told")
        page.writer.away = True
        opened.get_by_role("button", name="It is fraud").click()
        expect(told).to_have_text("The verdict was not acknowledged by Kafka: try again.")
        page.writer.away = False
        opened.get_by_role("button", name="It is fraud").click()
        expect(told).to_contain_text("fraud said by analyst")
        assert [(label.event_id, label.label) for label, _ in page.writer.written] == [("e-1", "fraud")]
        opened.get_by_role("link", name="All alerts").click()
        expect(rows(opened).first.locator(".told")).to_have_text("fraud")
        page.tail.feed("labels", Label("e-1", "tok_1", "m_12", NOW_MS, "genuine", now_ms() + 9, "chargeback"))
        expect(rows(opened).first.locator(".told")).to_have_text("genuine")


def test_without_verdicts_there_are_no_buttons_for_them(chromium: Browser) -> None:
    with served() as page, tab(chromium, page) as opened:
        page.show(alert("e-1"))
        rows(opened).first.get_by_role("link").click()
        expect(opened.get_by_role("heading", name="Payment e-1")).to_be_visible()
        expect(opened.get_by_role("heading", name="Time", exact=True)).to_be_visible()
        assert opened.get_by_role("button", name="It is fraud").count() == 0


def test_hostile_text_is_shown_and_does_not_run(chromium: Browser) -> None:
    """In every place where a record's text is shown; the policy has nothing to complain of either."""
    hostile = alert(
        HOSTILE[:128],
        merchant_id=HOSTILE,
        card_id=HOSTILE + "'",
        device_id=HOSTILE,
        account_id="javascript:window.ran=1",
        rules=(HOSTILE,),
        currency="<b>",
        reasons=(alert().reasons[0].__class__(HOSTILE, 1.0, 1.0, HOSTILE, HOSTILE),),
    )
    with served(verdicts=True) as page, tab(chromium, page) as opened:
        opened.evaluate("addEventListener('securitypolicyviolation', event => console.error(event.violatedDirective))")
        page.show(hostile)
        expect(rows(opened).first).to_contain_text("<img src=x onerror=")
        rows(opened).first.get_by_role("link").click()
        expect(opened.locator("#payment")).to_contain_text("<script>window.ran=1</script>")
        opened.get_by_role("button", name="It is fraud").click()
        expect(opened.locator("#verdict-told")).to_contain_text("in Kafka")
        opened.get_by_role("link", name="its alerts").nth(2).click()
        expect(rows(opened)).to_have_count(1)
        assert opened.evaluate("window.ran") is None
        assert opened.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_the_policy_stops_what_would_slip_in(chromium: Browser, page: Page) -> None:
    """Inline script, inline handlers, markup from text and other hosts: refused by the browser itself."""
    refused = ("Content Security Policy", "This document requires 'Trusted", "violates")
    with tab(chromium, page, allowed=refused) as opened:
        expect(rows(opened).first).to_be_visible()
        thrown = opened.evaluate("try { document.body.innerHTML = '<b>x</b>'; 'taken' } catch (error) { error.name }")
        assert thrown == "TypeError"
        handler = "document.createElement('a').setAttribute('onclick', 'window.ran = 1')"
        assert opened.evaluate(f"try {{ {handler}; 'taken' }} catch (error) {{ error.name }}") == "TypeError"
        assert opened.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'stopped')") == "stopped"


def test_the_whole_page_can_be_worked_by_keyboard(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        expect(rows(opened).first).to_be_visible()
        opened.keyboard.press("Tab")
        expect(opened.get_by_role("link", name="Skip to the alerts")).to_be_focused()
        opened.keyboard.press("Enter")
        expect(opened.locator("main")).to_be_focused()
        walked = []
        for _ in range(7):
            opened.keyboard.press("Tab")
            walked.append(opened.evaluate("document.activeElement.name || document.activeElement.textContent"))
            assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert walked == ["decision", "tier", "reason", "min_score", "min_amount", "text", "Clear"]
        opened.keyboard.press("Tab")
        expect(rows(opened).first.get_by_role("link")).to_be_focused()
        opened.keyboard.press("Enter")
        expect(opened.get_by_role("heading", level=1)).to_be_focused()
        opened.keyboard.press("Shift+Tab")
        expect(opened.get_by_role("link", name="All alerts")).to_be_focused()
        opened.keyboard.press("Enter")
        expect(rows(opened).first.get_by_role("link")).to_be_focused()


def test_screen_readers_find_landmarks_names_and_a_table(chromium: Browser, page: Page) -> None:
    with tab(chromium, page) as opened:
        expect(rows(opened).first).to_be_visible()
        for landmark in ("banner", "main", "contentinfo", "search"):
            assert opened.get_by_role(landmark).count() == 1, landmark  # type: ignore[arg-type]
        table = opened.get_by_role("table", name="Alerts, newest first")
        assert table.get_by_role("columnheader").all_inner_texts() == [
            *("Time", "Decision", "Score", "Amount", "Merchant", "Card", "Why", "Tier")
        ]
        assert table.get_by_role("row").nth(1).get_by_role("cell").count() == 8
        link = opened.locator("tr[data-event=e-block] a")
        expect(link).to_have_accessible_name(re.compile(r"^\d\d:\d\d:\d\d, payment e-block$"))
        unnamed = opened.evaluate(
            """() => [...document.querySelectorAll('input, select, button, a, svg[role=img]')].filter(each =>
            !(each.labels?.length || each.ariaLabel || each.getAttribute('aria-label') || each.textContent.trim()))
            .map(each => each.outerHTML)"""
        )
        assert unnamed == []
        assert opened.locator("html").get_attribute("lang") == "en"
        levels = opened.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => Number(each.tagName[1]))")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert opened.evaluate("new Set([...document.querySelectorAll('[id]')].map(each => each.id)).size") == (
            opened.locator("[id]").count()
        )


def test_many_alerts_are_not_read_out_one_by_one(chromium: Browser) -> None:
    with served() as page, tab(chromium, page) as opened:
        expect(opened.locator("#counted")).to_have_text("0 alerts are shown.")
        opened.evaluate(
            """() => { window.spoken = 0; new MutationObserver(() => window.spoken++)
            .observe(document.getElementById('counted'), {childList: true, characterData: true, subtree: true}); }"""
        )
        for number in range(30):
            page.show(alert(f"e-{number}"))
        expect(rows(opened)).to_have_count(30)
        assert opened.evaluate("window.spoken") <= 1
        live = opened.locator("#rows").evaluate(
            "rows => Boolean(rows.closest('[aria-live], [role=status], [role=log]'))"
        )
        assert live is False


CONTRAST = """() => {
  const part = value => { const c = value / 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const back = each => {
    for (; each; each = each.parentElement) {
      const found = rgb(getComputedStyle(each).backgroundColor);
      if (found[3] !== 0) return found;
    }
    return [255, 255, 255];
  };
  const ratio = each => {
    const [a, b] = [luminance(rgb(getComputedStyle(each).color)), luminance(back(each))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  const said = each => [...each.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll('body *')].filter(each => each.checkVisibility() && !each.closest('svg'))
    .filter(each => said(each) && ratio(each) < 4.5).map(each => [ratio(each), each.className, each.textContent]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(chromium: Browser, page: Page, scheme: str) -> None:
    with tab(chromium, page, color_scheme=scheme, reduced_motion="reduce") as opened:
        expect(rows(opened).first).to_be_visible()
        back = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(back.split("(")[1].split(",")[0]) < 60) == (scheme == "dark")
        assert opened.evaluate(CONTRAST) == []
        opened.goto(f"{page.address}#payment=e-review")
        expect(opened.get_by_role("button", name="It is fraud")).to_be_visible()
        assert opened.evaluate(CONTRAST) == []


def test_nothing_moves_for_those_who_asked_for_that(chromium: Browser, page: Page) -> None:
    for motion, names in (("reduce", {"none"}), ("no-preference", {"come"})):
        with tab(chromium, page, reduced_motion=motion) as opened:
            expect(rows(opened).first).to_be_visible()
            page.show(alert(f"e-moves-{motion}"))
            row = opened.locator(f"tr[data-event=e-moves-{motion}]")
            expect(row).to_be_visible()
            assert {row.evaluate("row => getComputedStyle(row).animationName")} == names


@pytest.mark.parametrize("width", [360, 768, 1_024, 1_920])
def test_every_width_is_enough(chromium: Browser, page: Page, width: int) -> None:
    page.show(alert("e-wide", merchant_id="m" * 128, card_id="c" * 128, rules=("r" * 100,), amount_minor=10**12))
    with tab(chromium, page, width=width) as opened:
        for address in (page.address, f"{page.address}#payment=e-wide"):
            opened.goto(address)
            expect(opened.locator("#payment .panel" if "#" in address else "#rows tr").first).to_be_visible()
            assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_a_narrow_page_hides_its_filters_and_shows_them_when_asked(chromium: Browser, page: Page) -> None:
    with tab(chromium, page, width=360) as opened:
        expect(rows(opened).first).to_be_visible()
        expect(opened.get_by_label("Decision")).to_be_hidden()
        opened.get_by_text("Filter and search").click()
        opened.get_by_label("Decision").select_option("block")
        expect(opened.locator("tr[data-event=e-block]")).to_be_visible()


def test_figures_are_those_of_the_records(chromium: Browser) -> None:
    with served() as page, tab(chromium, page) as opened:
        at_ms = now_ms()
        for took_ms in range(100, 301):
            paid = decision(f"d-{took_ms}", tier="no_features" if took_ms < 160 else "full", kafka_time=at_ms - took_ms)
            page.tail.feed("decisions", paid, at_ms=at_ms)
        expect(opened.locator("#p50")).to_have_text("200 ms")
        expect(opened.locator("#p99")).to_have_text("298 ms")
        expect(opened.locator("#over")).to_have_text("49.8 % over 200 ms")
        expect(opened.locator("#tiers dd.odd")).to_have_text("60")
        expect(opened.get_by_role("img", name=re.compile("^Latency in 15 minutes: p50 200 ms"))).to_be_visible()


def test_the_page_says_that_it_is_stale_and_goes_on_by_itself(chromium: Browser) -> None:
    with served() as page, tab(chromium, page) as opened:
        expect(opened.locator("#state-text")).to_have_text("Live")
        page.tail.away = True
        expect(opened.locator("#state-text")).to_have_text(
            re.compile(r"^Stale since \d\d:\d\d:\d\d: Kafka does not answer$")
        )
        assert "secret-host" not in opened.content()
        page.tail.away = False
        expect(opened.locator("#state-text")).to_have_text("Live")
        page.show(alert("e-after"))
        expect(rows(opened).first).to_have_attribute("data-event", "e-after")


def test_the_page_comes_back_when_its_server_was_started_anew(chromium: Browser) -> None:
    with served() as first:
        first.show(alert("e-old"))
        port = first.address.rstrip("/").rpartition(":")[2]
        with tab(chromium, first, allowed=("Failed to load resource", "ERR_")) as opened:
            expect(rows(opened)).to_have_count(1)
            first.dashboard.close()
            expect(opened.locator("#state-text")).to_contain_text("does not answer")
            with served(port=port) as second:
                second.show(alert("e-new-1"), alert("e-new-2"))
                expect(opened.locator("#state-text")).to_have_text("Live")
                until(lambda: events(opened) == ["e-new-2", "e-new-1"])  # for a moment the old one may still be there


def test_one_browser_too_many_is_told_so_and_let_in_later(chromium: Browser) -> None:
    with served(max_streams=1) as page, tab(chromium, page) as first:
        expect(first.locator("#state-text")).to_have_text("Live")
        until(lambda: page.dashboard.streams.open == 1)
        with tab(chromium, page, allowed=("503",)) as second:
            expect(second.get_by_role("alert")).to_contain_text("As many browsers follow this page as may")
            first.close()
            until(lambda: page.dashboard.streams.open == 0)
            expect(second.locator("#state-text")).to_have_text("Live", timeout=40_000)


def test_signing_in_and_out(chromium: Browser) -> None:
    with served(auth="token", token=TOKEN) as page:
        page.show(alert("e-1"))
        with tab(chromium, page, allowed=("401",)) as opened:
            expect(opened).to_have_title("Sign in - Fraudline")
            opened.get_by_label("Token").fill("wrong")
            opened.get_by_role("button", name="Sign in").click()
            expect(opened.get_by_role("alert")).to_have_text("That is not the token.")
            opened.get_by_label("Token").fill(TOKEN)
            opened.keyboard.press("Enter")
            expect(rows(opened)).to_have_count(1)
            assert opened.evaluate("document.cookie") == ""
            opened.get_by_role("button", name="Sign out").click()
            expect(opened).to_have_title("Sign in - Fraudline")
            opened.goto(page.address)
            expect(opened).to_have_title("Sign in - Fraudline")


def test_signing_in_by_a_name_that_is_not_this_machine_s(chromium: Browser) -> None:
    """Without TLS such a name is nothing that a browser trusts: it says by Origin alone where a form comes from."""
    with served(auth="token", token=TOKEN, host="0.0.0.0", verdicts=True) as page:
        page.show(alert("e-1"))
        page.address = page.address.replace("localhost", "fraud.test")
        with tab(chromium, page, allowed=("Cross-Origin-Opener-Policy",)) as opened:
            opened.get_by_label("Token").fill(TOKEN)
            with opened.expect_request("**/login") as sent:
                opened.keyboard.press("Enter")
            assert sent.value.header_value("origin") == page.address.rstrip("/")
            expect(rows(opened)).to_have_count(1)
            opened.goto(f"{page.address}#payment=e-1")
            opened.get_by_role("button", name="It is fraud").click()
            expect(opened.locator("#verdict-told")).to_contain_text("in Kafka")
            opened.get_by_role("button", name="Sign out").click()
            expect(opened).to_have_title("Sign in - Fraudline")


def test_what_can_not_be_seen_in_a_name_is_written_out(chromium: Browser) -> None:
    hidden = "m_\u202e21\u200b\u2066"
    with served() as page, tab(chromium, page) as opened:
        page.show(alert("e-\u202etpircs", merchant_id=hidden))
        expect(rows(opened).locator("td:nth-child(5)")).to_have_text(r"m_\u{202e}21\u{200b}\u{2066}")
        rows(opened).get_by_role("link").click()
        expect(opened.locator("h1:visible")).to_have_text(r"Payment e-\u{202e}tpircs")
        expect(opened).to_have_title(r"Payment e-\u{202e}tpircs - Fraudline")
        opened.locator("dt", has_text="Merchant").locator("+ dd").get_by_role("link").click()
        expect(opened.locator("#counted")).to_have_text("1 alert is shown.")
        expect(opened.get_by_label("Find an id")).to_have_value(hidden)


def test_a_server_that_fails_for_a_while_is_asked_again(chromium: Browser) -> None:
    """As a reverse proxy answers while the page is started anew; both at the beginning and in a tab left open."""
    with served(verdicts=True) as page:
        page.show(alert("e-1"))
        with tab(chromium, page, allowed=("502",)) as opened:
            for path in ("**/api/about", "**/api/alerts?*"):
                opened.route(path, lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
            opened.reload()
            expect(opened.locator("#state-text")).to_contain_text("trying again")
            opened.unroute_all()
            expect(opened.locator("#state-text")).to_have_text("Live")
            expect(rows(opened)).to_have_count(1)
            expect(opened.locator("#version")).to_be_visible()
            assert "read-only" not in opened.locator("#version").inner_text()


def test_older_alerts_come_once_however_often_they_are_asked_for(chromium: Browser) -> None:
    with served() as page:
        page.show(*(alert(f"e-{number}") for number in range(250)))
        with tab(chromium, page) as opened:
            expect(rows(opened)).to_have_count(100)
            opened.locator("#older").evaluate("button => { button.click(); button.click(); button.click(); }")
            expect(opened.locator("#older")).to_be_enabled()
            expect(rows(opened)).to_have_count(200)
            assert len(set(events(opened))) == 200


def test_a_record_that_can_not_be_read_is_counted_and_not_shown(chromium: Browser) -> None:
    with served() as page, tab(chromium, page) as opened:
        page.tail.feed("alerts", b'{"merchant_id": "secret-shop"')
        expect(opened.locator("#unreadable")).to_have_text("1 record could not be read")
        assert "secret-shop" not in opened.content()
