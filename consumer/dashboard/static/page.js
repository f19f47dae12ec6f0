// The alert page. Whatever comes from a record is put in as text, never as markup.

const SHOWN = 300; // rows at most, before older ones are asked for
const WAITING = 500;
const SPEAK_MS = 15_000;
const HIDDEN_MS = 60_000;
const FILTER_MS = 250;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat([], { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
const counted = new Intl.NumberFormat("en");
const small = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

const state = { words: "", number: 0, source: null, paused: false, waiting: [], missed: 0, heard: null, spoken: 0,
  fresh: [0, 0], labels: new Map(), verdicts: false, skew: 0, stale: false, away: false, loaded: true, more: false,
  asking: 0, payment: null, known: false };

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const ms = (value) => value === null || value === undefined ? "–"
  : value < 10 ? `${small.format(value)} ms` : value < 10_000 ? `${counted.format(Math.round(value))} ms` : age(value);
function age(value) {
  const seconds = Math.max(0, value / 1000);
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 360_000) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
const rate = (value) => value === null ? "–" : value < 100 ? small.format(value) : counted.format(Math.round(value));
const score = (value, digits = 3) => value === null ? "–" : value.toFixed(digits);
const now = () => Date.now() + state.skew;
// Characters that can't be seen, or turn the text around them, are written out: two ids that look alike may differ.
const visible = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (each) => `\\u{${each.codePointAt(0).toString(16)}}`);
const today = (time) => new Date(time).toDateString() === new Date().toDateString();

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw Object.assign(new Error((await answer.text()).trim()), { status: answer.status, answer });
  return answer.json();
}

// what is chosen

function chosen() {
  const words = new URLSearchParams();
  for (const [name, value] of new FormData($("filters"))) if (value.trim()) words.set(name, value.trim());
  return words.toString();
}

let filterTimer = 0;
function choose() {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(load, FILTER_MS);
}

// the list

async function load() {
  const asking = ++state.asking;
  state.words = chosen();
  close();
  try {
    const found = await ask(`/api/alerts?${state.words}`);
    if (asking !== state.asking) return;
    Object.assign(state, { number: found.number, waiting: [], missed: 0, more: found.more });
    notice("");
    take(found.labels);
    $("rows").replaceChildren(...found.alerts.map(row));
    reading(found.reading);
    settle();
    if (!state.known) introduce();
    const many = `${found.alerts.length}${found.more ? " or more" : ""}`;
    say(found.alerts.length === 1 ? "1 alert is shown." : `${many} alerts are shown.`);
    open();
  } catch (error) {
    if (asking === state.asking) fail(error);
  }
}

async function older() {
  const last = $("rows").lastElementChild;
  if (!last) return;
  const asking = state.asking;
  $("older").disabled = true;
  const found = await ask(`/api/alerts?${state.words}&before=${last.dataset.number}`).catch(fail);
  $("older").disabled = false;
  if (!found || asking !== state.asking) return; // another list is shown by now
  state.more = found.more;
  take(found.labels);
  const rows = found.alerts.map(row);
  $("rows").append(...rows);
  settle();
  rows[0]?.querySelector("a").focus();
}

function row(alert) {
  const made = element("tr", { role: "row" });
  made.dataset.number = alert.number;
  made.dataset.event = alert.event_id;
  const time = today(alert.raised_ms) ? clock.format(alert.raised_ms)
    : `${day.format(alert.raised_ms)} ${clock.format(alert.raised_ms)}`;
  const link = element("a", { href: `#payment=${encodeURIComponent(alert.event_id)}` }, time);
  link.setAttribute("aria-label", `${time}, payment ${visible(alert.event_id)}`);
  const why = element("td", { role: "cell", class: "why" }, ...alert.rules.map((rule) => element("span", { class: "rule" }, rule)));
  const [first, ...rest] = alert.reasons;
  if (first) why.append(first);
  if (!first && !alert.rules.length) why.append(element("span", { class: "rest" }, "not explained"));
  if (rest.length) why.append(element("span", { class: "rest" }, ` · ${rest.slice(0, 2).join(" · ")}`));
  const cell = (kind, ...children) => element("td", { role: "cell", class: kind }, ...children);
  made.append(
    cell("", link),
    cell("", element("span", { class: `tag ${alert.decision}` }, alert.decision), element("span", { class: "told" })),
    cell("number", score(alert.score)),
    cell("number", alert.amount, element("span", { class: "currency" }, alert.currency)),
    cell("id", visible(alert.merchant_id)), cell("id", visible(alert.card_id)), why,
    cell(alert.tier === "full" ? "" : "odd", alert.tier));
  mark(made);
  return made;
}

function mark(made) {
  const told = state.labels.get(made.dataset.event);
  const place = made.querySelector(".told");
  place.replaceChildren();
  if (told) {
    place.append(element("span", { class: `tag ${told.label}` }, told.label));
    place.title = `said by ${told.source}`;
  }
}

function take(labels) {
  for (const told of labels) {
    state.labels.set(told.event_id, told);
    if (state.labels.size > 5000) state.labels.delete(state.labels.keys().next().value);
    for (const made of $("rows").children) if (made.dataset.event === told.event_id) mark(made);
    if (state.payment === told.event_id) showVerdict(told);
  }
}

const held = () => state.paused || state.payment !== null || window.scrollY > $("rows").getBoundingClientRect().top + window.scrollY;

function news(told) {
  take(told.labels);
  if (told.skipped) state.missed += told.skipped;
  state.fresh[0] += told.alerts.length + told.skipped;
  state.fresh[1] += told.alerts.filter((alert) => alert.decision === "block").length;
  state.waiting.push(...told.alerts);
  if (state.waiting.length > WAITING) {
    state.missed += state.waiting.length - WAITING;
    state.waiting.splice(0, state.waiting.length - WAITING);
  }
  if (!held()) show(); else settle();
}

function show() {
  if (state.missed) {
    load(); // more came than a stream tells: the list has them
    return;
  }
  const rows = state.waiting.splice(0).map(row).reverse();
  for (const made of rows) made.classList.add("new");
  $("rows").prepend(...rows);
  while ($("rows").children.length > SHOWN) {
    $("rows").lastElementChild.remove();
    state.more = true;
  }
  settle();
}

function settle() {
  const many = state.waiting.length + state.missed;
  $("waiting").hidden = !many;
  $("waiting").textContent = `${counted.format(many)} new ${many === 1 ? "alert" : "alerts"}: show`;
  const none = !$("rows").children.length;
  $("empty").hidden = !none;
  $("empty").textContent = !state.loaded ? "Reading what was published before…"
    : state.words ? "No alert is like that." : "No alerts yet.";
  $("older").hidden = none || !state.more;
}

function say(text) {
  $("counted").textContent = text;
  state.spoken = Date.now();
}

setInterval(() => {
  if (!state.fresh[0] || state.paused || Date.now() - state.spoken < SPEAK_MS) return;
  const [many, blocked] = state.fresh;
  state.fresh = [0, 0];
  say(`${many} new ${many === 1 ? "alert" : "alerts"}${blocked ? `, ${blocked} blocked` : ""}.`);
}, 1000);

// the stream

function open() {
  close();
  const source = new EventSource(`/api/stream?${state.words}&after=${state.number}`);
  state.source = source;
  source.onopen = () => { state.away = false; status(); };
  source.addEventListener("news", (event) => news(JSON.parse(event.data)));
  source.addEventListener("figures", (event) => figures(JSON.parse(event.data)));
  source.addEventListener("reset", () => load());
  source.onerror = () => {
    if (state.source !== source) return;
    state.away = true;
    status();
    if (source.readyState === EventSource.CLOSED) again();
  };
}

function close() {
  state.source?.close();
  state.source = null;
}

let againTimer = 0;
function again(after = 3000) {
  clearTimeout(againTimer);
  againTimer = setTimeout(async () => {
    const answer = await fetch("/api/stream", { method: "GET", signal: stopSoon() }).catch(() => null);
    if (answer?.status === 401) return location.assign("/login");
    if (answer?.status === 503) {
      notice((await answer.text()).trim());
      return again(1000 * (Number(answer.headers.get("Retry-After")) || 15));
    }
    answer?.body?.cancel();
    return answer?.ok ? load() : again();
  }, after);
}

function stopSoon() {
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 5000);
  return stop.signal;
}

function fail(error) {
  const passes = error.status >= 500 || error.status === 429; // a proxy that finds nobody, a restart
  if (error.status && !passes) return notice(error.message); // refused: the page says why
  state.away = true;
  status();
  again();
}

let hiddenTimer = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(close, HIDDEN_MS);
  else if (!state.source) load();
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // its stream has ended

// state and figures

function reading(told) {
  Object.assign(state, { stale: told.stale, heard: told.heard_ms, loaded: told.loaded });
  $("unreadable").textContent = told.unreadable
    ? `${counted.format(told.unreadable)} ${told.unreadable === 1 ? "record" : "records"} could not be read` : "";
  status();
}

function status() {
  const heard = state.heard ? `${today(state.heard) ? "" : `${day.format(state.heard)} `}${clock.format(state.heard)}` : null;
  let [kind, text] = ["live", "Live"];
  if (state.away) [kind, text] = ["away", "This page’s server does not answer; trying again"];
  else if (state.stale) [kind, text] = ["stale", heard ? `Stale since ${heard}: Kafka does not answer` : "Waiting for Kafka"];
  else if (!state.loaded) [kind, text] = ["wait", "Reading"];
  else if (state.paused) [kind, text] = ["paused", "Paused"];
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
  $("state").dataset.state = kind;
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function figures(told) {
  state.skew = told.now_ms - Date.now();
  const loaded = state.loaded;
  reading(told.reading);
  if (!loaded && state.loaded) load();
  if (state.paused) return;
  const { latency, lag, series } = told;
  $("payments-rate").textContent = rate(told.payments_per_s);
  $("alerts-rate").textContent = rate(told.alerts_per_s);
  line($("payments-line"), series.payments_per_s, "Payments a second");
  line($("alerts-line"), series.alerts_per_s, "Alerts a second");
  const all = Object.values(told.decisions).reduce((sum, each) => sum + each, 0);
  const share = all ? (100 * (all - told.decisions.approve)) / all : null;
  $("alerts-share").textContent = share === null ? "of 15 min: none"
    : `${share.toFixed(2)} % of payments, ${counted.format(told.decisions.block)} blocked`;
  $("p50").textContent = ms(latency.p50_ms);
  $("p99").textContent = ms(latency.p99_ms);
  $("p99").className = latency.p99_ms > latency.budget_ms ? "odd" : "";
  $("over").textContent = latency.over_budget === null ? "" : `${(100 * latency.over_budget).toFixed(1)} % over ${latency.budget_ms} ms`;
  $("budget").textContent = `${latency.budget_ms} ms`;
  chart(series, latency);
  $("tiers").replaceChildren(...Object.entries(told.tiers).flatMap(([tier, many]) => {
    const odd = tier !== "full" && many > 0 ? "odd" : "";
    return [element("dt", { class: odd }, tier), element("dd", { class: odd }, counted.format(many))];
  }));
  $("queued").textContent = ms(lag.queued_p50_ms);
  $("queued-max").textContent = ms(lag.queued_max_ms);
  $("reach").textContent = ms(lag.reach_p50_ms);
  $("newest").textContent = lag.newest_decision_ms ? `${age(now() - lag.newest_decision_ms)} ago` : "none";
}

function path(values, most, width, height) {
  let text = "";
  let pen = false;
  values.forEach((value, place) => {
    if (value === null) { pen = false; return; }
    text += `${pen ? "L" : "M"}${((place * width) / (values.length - 1)).toFixed(1)} ${(height - 2 - (Math.min(value, most) * (height - 5)) / most).toFixed(1)}`;
    pen = true;
  });
  return text;
}

function line(svg, values, name) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known, 0.1);
  svg.setAttribute("viewBox", "0 0 200 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", known.length
    ? `${name}, 15 minutes: from ${rate(Math.min(...known))} to ${rate(most)}` : `${name}: none yet`);
  svg.replaceChildren(drawn("path", { d: path(values, most, 200, 40) }));
}

function chart(series, latency) {
  const svg = $("latency");
  const most = 1.25 * Math.max(latency.budget_ms, Math.min(Math.max(...series.p99_ms.map((value) => value ?? 0)), 10 * latency.budget_ms));
  const height = 62;
  const budget = height - 2 - (latency.budget_ms * (height - 5)) / most;
  svg.setAttribute("viewBox", `0 0 400 ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", latency.p99_ms === null ? "Latency: no payments yet"
    : `Latency in 15 minutes: p50 ${ms(latency.p50_ms)}, p99 ${ms(latency.p99_ms)}, line at ${latency.budget_ms} ms`);
  svg.replaceChildren(
    drawn("line", { class: "budget", x1: 0, x2: 400, y1: budget, y2: budget }),
    drawn("path", { class: "p99", d: path(series.p99_ms, most, 400, height) }),
    drawn("path", { class: "p50", d: path(series.p50_ms, most, 400, height) }));
}

// a payment's own page

async function showPayment(event) {
  state.payment = event;
  $("overview").hidden = true;
  const place = $("payment");
  place.hidden = false;
  const back = element("p", {}, element("a", { href: "#" }, "← All alerts"));
  const heading = element("h1", { tabIndex: -1 }, "Payment ", id(event));
  const told = element("p", { class: "note" }, "Looking it up…");
  place.replaceChildren(back, heading, told);
  document.title = `Payment ${visible(event)} - Fraudline`;
  heading.focus();
  window.scrollTo(0, 0);
  try {
    const known = await ask(`/api/payment?event_id=${encodeURIComponent(event)}`);
    if (state.payment !== event) return;
    told.replaceWith(...payment(known)); // the heading stays, and keeps the focus
    showVerdict(known.label);
  } catch (error) {
    if (state.payment === event) told.textContent = error.status ? error.message : "The page’s server does not answer.";
  }
}

const panel = (title, ...children) => element("section", { class: "panel" }, element("h2", {}, title), ...children);

function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}
const id = (text) => text === null || text === undefined ? null : element("span", { class: "id" }, visible(text));
const offset = (source) => id(`${source.topic}/${source.partition} @ ${source.offset}`);

function payment({ alert, decision }) {
  const shown = alert ?? decision;
  const inputs = decision?.inputs;
  const head = element("div", { class: "payment-head" }, element("span", { class: `tag ${shown.decision}` }, shown.decision),
    alert ? element("span", { class: "big" }, `${alert.amount} ${alert.currency}`) : null,
    element("span", {}, shown.score === null ? "no score" : `score ${score(shown.score, 4)}`),
    element("span", { class: "note" }, bars(inputs)));
  const left = element("div", {});
  const right = element("div", {});
  if (alert) left.append(reasons(alert));
  else left.append(panel("Why", element("p", {}, "Reasons and amounts are published with alerts only; this payment raised none that is kept here.")));
  if (alert?.cleared_by) left.append(cleared(alert.cleared_by));
  if (alert) left.append(times(alert));
  const rules = (decision ?? alert).rules;
  right.append(panel("Payment", facts([
    ["Event", id(shown.event_id)], ["Alert", id(alert?.alert_id)], ["Card", found(shown.card_id)], ["Account", found(alert?.account_id)],
    ["Merchant", found(alert?.merchant_id)], ["Device", found(alert?.device_id)], ["Paid at", moment.format(shown.event_time)],
    ["Alert in Kafka", alert ? moment.format(alert.raised_ms) : null],
    ["Card’s last payment", alert?.feature_age_ms === null || !alert ? null : `${age(alert.feature_age_ms)} before`]])));
  right.append(panel("Decision", facts([
    ["Rules", rules.length ? element("span", {}, ...rules.flatMap((rule) => [element("span", { class: "rule" }, rule), " "])) : "none"],
    ["Shadow rules", decision?.shadow_rules.length ? decision.shadow_rules.join(", ") : null],
    ["Tier", shown.tier], ["Model", id(decision?.model ?? `${alert.model.name}@${alert.model.version}`)],
    ["Computed on", inputs?.device], ["Limiter", inputs?.limiter], ["Lists", inputs?.lists_version], ["Canary", inputs?.canary],
    ["Bundle", id(decision?.digests.bundle ?? alert.model.digest)], ["Catalog", id(decision?.digests.catalog)], ["Policy", id(decision?.digests.policy)]])));
  right.append(panel("Where it stands", facts([
    ["Source", offset(shown.source)],
    ["State", shown.state ? id(`shard ${shown.state.shard}, epoch ${shown.state.epoch}, sequence ${shown.state.sequence}`) : "the store did not answer"],
    ["State had", alert?.state_offsets.length ? element("span", {}, ...alert.state_offsets.map((each) => element("div", {}, offset(each)))) : null],
    ["Decision in Kafka", decision ? moment.format(decision.decided_at_ms) : null]])));
  return [head, alert && state.verdicts ? verdictPanel(alert.event_id) : "", element("div", { class: "panels" }, left, right)];
}

function found(text) {
  if (text === null || text === undefined) return null;
  return element("span", { class: "id" }, visible(text), element("a", { href: `#find=${encodeURIComponent(text)}` }, "its alerts"));
}

function bars(inputs) {
  if (!inputs || inputs.review_threshold === null) return "";
  const block = inputs.block_threshold === null ? "" : `, blocked from ${score(inputs.block_threshold, 4)}`;
  return `reviewed from ${score(inputs.review_threshold, 4)}${block}`;
}

function bar(share, down = false, start = 0) {
  const svg = drawn("svg", { "aria-hidden": "true", viewBox: "0 0 100 14", preserveAspectRatio: "none" });
  svg.append(drawn("rect", { class: "base", width: 100, height: 14, rx: 1 }),
    drawn("rect", { class: down ? "down" : "up", x: 100 * start, width: Math.max(0.5, 100 * share), height: 14, rx: 1 }));
  return svg;
}

function table(name, titles, rows) {
  const head = element("tr", { role: "row" }, ...titles.map(([title, kind]) =>
    element("th", { role: "columnheader", scope: "col", class: kind }, title)));
  const body = rows.map((cells) => element("tr", { role: "row" }, ...cells.map((cell, place) =>
    element("td", { role: "cell", class: titles[place][1] }, cell))));
  return element("table", { class: "bars", role: "table", "aria-label": name },
    element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...body));
}

function reasons(alert) {
  if (!alert.reasons.length) {
    return panel("Why", element("p", {}, alert.score === null ? "Rules alone decided." : "There was no time to explain the score, or rules alone decided."));
  }
  const most = Math.max(...alert.reasons.map((reason) => Math.abs(reason.contribution)), 1e-9);
  const rows = alert.reasons.map((reason) => [
    element("span", {}, element("span", { class: "text" }, reason.text), element("span", { class: "id" }, reason.feature)),
    reason.value === null ? "missing" : plain(reason.value), `${reason.contribution >= 0 ? "+" : ""}${reason.contribution.toFixed(2)}`,
    bar(Math.abs(reason.contribution) / most, reason.contribution < 0)]);
  return panel("Why", table("Features that raised the score most", [["Feature", ""], ["Value", "number"], ["Adds", "number"], ["", ""]], rows),
    element("p", { class: "note" }, "“Adds” is each feature’s part of the score, in log-odds (TreeSHAP); the strongest are published."));
}

const plain = (value) => Number.isInteger(value) ? counted.format(value) : new Intl.NumberFormat("en", { maximumSignificantDigits: 5 }).format(value);

function cleared(by) {
  const changes = by.changes.map((change) => element("li", {}, id(change.feature),
    ` ${change.value === null ? "missing" : plain(change.value)} → ${change.to === null ? "missing" : plain(change.to)}`));
  return panel("What would have cleared it", element("ul", {}, ...changes), element("p", { class: "note" }, `The score would have been ${score(by.score, 4)}.`));
}

function times(alert) {
  const stages = Object.entries(alert.stage_ms);
  const whole = Math.max(alert.decided_ms, 1e-9);
  let start = 0;
  const rows = stages.map(([name, took]) => {
    const cells = [name === "queued" ? "queued (Kafka timestamp until read)" : name, ms(took), "", bar(took / whole, true, start / whole)];
    start += took;
    return cells;
  });
  rows.push([element("b", {}, "until decided"), element("b", {}, ms(alert.decided_ms)), "", ""]);
  return panel("Time", table("Time of its batch", [["Stage", ""], ["Took", "number"], ["", "unused"], ["", ""]], rows));
}

function verdictPanel(event) {
  const button = (word) => element("button", { type: "button", onclick: () => give(event, word) }, word === "fraud" ? "It is fraud" : "It is genuine");
  return element("section", { class: "panel verdict", id: "verdict" }, element("h2", {}, "Verdict"), button("fraud"), button("genuine"),
    element("p", { role: "status", id: "verdict-told", class: "note" }));
}

function showVerdict(told) {
  const place = $("verdict-told");
  if (!place || !told) return;
  place.replaceChildren(element("span", { class: `tag ${told.label}` }, told.label),
    ` said by ${told.source}, ${moment.format(told.labelled_ms)}; in Kafka.`);
}

async function give(event, label) {
  const place = $("verdict-told");
  const buttons = place.parentElement.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  place.textContent = `Sending “${label}”…`;
  try {
    const given = await ask("/api/verdict", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ event_id: event, label }) });
    take([{ event_id: event, label, source: "analyst", labelled_ms: given.labelled_ms }]);
  } catch (error) {
    place.textContent = error.status ? error.message : "The page’s server does not answer: try again.";
  }
  for (const button of buttons) button.disabled = false;
}

function route() {
  const event = location.hash.startsWith("#payment=") ? decode(location.hash.slice(9)) : null;
  if (event) return void showPayment(event);
  const wanted = location.hash.startsWith("#find=") ? decode(location.hash.slice(6)) : null;
  if (wanted) {
    $("filters").reset();
    $("filters").elements.text.value = wanted;
    $("choose").open = true;
    history.replaceState(null, "", "#");
    choose();
  }
  const left = state.payment;
  state.payment = null;
  $("payment").hidden = true;
  $("payment").replaceChildren();
  $("overview").hidden = false;
  document.title = "Alerts - Fraudline";
  if (left) {
    show();
    const back = [...$("rows").children].find((made) => made.dataset.event === left);
    (back?.querySelector("a") ?? $("main")).focus();
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// beginning

$("filters").reset();
$("filters").addEventListener("input", choose);
$("filters").addEventListener("reset", () => choose());
$("filters").addEventListener("submit", (event) => { event.preventDefault(); load(); });
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", state.paused);
  $("pause").textContent = state.paused ? "Go on" : "Pause";
  status();
  if (!state.paused) show();
});
$("waiting").addEventListener("click", () => { window.scrollTo(0, 0); show(); $("rows").querySelector("a")?.focus(); });
$("older").addEventListener("click", older);
window.addEventListener("hashchange", route);
const wide = matchMedia("(min-width: 761px)");
const unfold = () => { if (wide.matches) $("choose").open = true; };
wide.addEventListener("change", unfold);
unfold();

async function introduce() {
  const about = await ask("/api/about").catch(() => null); // where that fails the next list asks again
  if (!about) return;
  state.known = true;
  state.verdicts = about.verdicts;
  $("reader").textContent = about.way === "proxy" ? about.reader : about.way === "none" ? "local" : "";
  $("logout").hidden = about.way !== "token";
  $("version").textContent = `Fraudline ${about.version}${about.verdicts ? "" : ", read-only"}`;
  $("words").replaceChildren(...about.words.map((word) => element("option", { value: word })));
}
await introduce();
route();
load();
