// The page's parts. They are made once and kept; only what changed is touched.

import { bringBack, drain, OF_SERVICES } from "./actions.js";
import { makeChart } from "./charts.js";
import { $, button, clock, code, duration, element, number, pill, setText, tidy, when, withUnit } from "./dom.js";
import { openQuery } from "./queries.js";
import * as series from "./series.js";
import { Table } from "./tables.js";

// Targets.

const VERDICTS = { in: "In target", low: "Below target", high: "Above target", idle: "Idle", off: "Off" };
const tiles = new Map();

export function showTargets(lines) {
  for (const line of lines) {
    let tile = tiles.get(line.key);
    if (!tile) {
      tile = {
        number: element("span", { class: "number" }),
        unit: element("span", { class: "unit" }),
        verdict: element("span", { class: "pill" }),
        note: element("p", { class: "note" }),
        chart: makeChart(line.key, { label: line.title, unit: line.unit, low: line.low, high: line.high, caption: false }),
      };
      tile.box = element(
        "article", { class: "tile" },
        element("h3", {}, line.title),
        element("p", { class: "value" }, tile.number, tile.unit),
        element("div", { class: "verdict" }, tile.verdict, element("span", { class: "target" }, `Target: ${line.target}`)),
        tile.note, tile.chart,
      );
      tiles.set(line.key, tile);
      $("targets").append(tile.box);
    }
    const none = line.value === null;
    tile.box.dataset.tone = line.tone;
    tile.box.dataset.verdict = line.verdict;
    tile.verdict.dataset.tone = line.tone;
    setText(tile.number, none ? "–" : number(line.value, line.unit));
    setText(tile.unit, none ? "" : line.unit);
    setText(tile.verdict, VERDICTS[line.verdict]);
    setText(tile.note, line.note);
    tile.note.hidden = !line.note;
    tile.chart.hidden = line.verdict === "off" || (none && series.isLive() && !series.hasAny(line.key));
  }
}

// Services.

const STATES = { on: ["On", "good"], degraded: ["Degraded", "warn"], failing: ["Failing", "bad"], off: ["Off", "none"] };
const cards = new Map();

function makeCard(service) {
  const card = {
    state: element("span", { class: "pill" }),
    why: element("p", { class: "why" }),
    off: element("p", { class: "off" }, "Switch it on with ", code(`${service.flag} = True`)),
    facts: element("dl", { class: "facts" }),
    chart: makeChart(service.chart, { label: service.chart_label, unit: service.unit }),
    acts: element("div", { class: "acts", hidden: true }, ...(OF_SERVICES[service.key] ?? []).map(([text, act]) => button(text, act))),
    values: new Map(),
  };
  const more = service.key === "outbound" ? [element("div", { id: "priorities" })] : [];
  card.box = element(
    "article", { class: "card", "aria-label": service.name },
    element("div", { class: "top" }, element("h3", {}, service.name), card.state),
    card.why, card.off, card.facts, ...more, card.chart, card.acts,
  );
  card.box.dataset.service = service.key;
  cards.set(service.key, card);
  $("services").append(card.box);
  return card;
}

export function showServices(services, actions) {
  for (const service of services) {
    const card = cards.get(service.key) ?? makeCard(service);
    const [text, tone] = STATES[service.state] ?? [service.state, "warn"];
    const off = service.state === "off";
    card.box.dataset.state = service.state;
    card.state.dataset.tone = tone;
    setText(card.state, text);
    setText(card.why, service.why);
    card.why.hidden = !service.why;
    card.off.hidden = !off;
    card.facts.hidden = off;
    card.chart.hidden = off;
    card.acts.hidden = off || !actions || !card.acts.children.length;
    for (const fact of service.facts) {
      let value = card.values.get(fact.label);
      if (!value) {
        value = element("dd");
        card.values.set(fact.label, value);
        card.facts.append(element("div", {}, element("dt", { title: fact.label }, fact.label), value));
      }
      const shown = number(fact.value, fact.unit);
      if (value.dataset.shown !== shown) {
        value.dataset.shown = shown;
        const unit = fact.unit && fact.value !== null ? [element("small", {}, fact.unit)] : [];
        value.replaceChildren(shown, ...unit);
      }
    }
  }
}

// In one sentence how it all is, and its tone.
export function overall(services) {
  const of = (state) => services.filter((service) => service.state === state).length;
  const on = services.length - of("off");
  if (of("failing")) return [`${of("failing")} failing`, "bad"];
  if (of("degraded")) return [`${of("degraded")} degraded`, "warn"];
  return on ? [`${on} of ${services.length} services on, all well`, "good"] : ["All services are off", "none"];
}

export function showProcess(state) {
  const figures = [
    ["Up", duration(state.uptime)],
    ["Memory", withUnit(state.process.rss_mb, "MB")],
    ["CPU", withUnit(state.process.cpu_percent ?? null, "%")],
    ["Open files", number(state.process.open_fds)],
    ["Loop lag", withUnit(state.lag_ms, "ms")],
  ];
  const strip = $("process");
  figures.forEach(([name, value], index) => {
    if (!strip.children[index]) strip.append(element("div", {}, element("dt", {}, name), element("dd")));
    setText(strip.children[index].lastChild, value);
  });
  const charts = $("process-charts");
  if (charts.children.length) return;
  for (const [key, label, unit] of [["cpu", "CPU of one core", "%"], ["memory", "Memory", "MB"], ["lag", "Event loop lag", "ms"]]) {
    charts.append(element("article", { class: "card" }, makeChart(key, { label, unit })));
  }
}

// Tables.

const count = (title, key) => ({ title, text: (row) => number(row[key]), value: (row) => row[key] });
const time = (title, key, unit = "ms") => ({ title, text: (row) => withUnit(row[key] ?? null, unit), value: (row) => row[key] });
const at = (title, key) => ({ title, text: (row) => when(row[key]), value: (row) => row[key] });
const opener = (title) => ({
  title: "Query", kind: "query", text: (row) => tidy(row.query),
  make: (row) => button(tidy(row.query), () => openQuery(row, title), { class: "open" }),
});
const lines = (...texts) => texts.filter(Boolean).map((text) => element("p", { class: "where" }, text));

let acts = false;
const TONES = { healthy: "good", slow_start: "good", half_open: "warn", draining: "note", drained: "note" };
const DRAINED = ["draining", "drained"];
const instanceState = (row) => TONES[row.state] ?? (row.healthy ? "good" : "bad");

const TABLES = {
  slow: () => new Table("slow", "Slow queries", [
    opener("Slow query"), count("Slow", "slow"), count("Runs", "executions"), time("Average", "avg_ms"), time("Longest", "max_ms"), at("Last", "last_seen"),
  ], (row) => row.fingerprint),
  n1: () => new Table("n1", "N+1 findings", [
    opener("N+1 finding"), count("Values", "count"), count("Requests", "requests"), at("Last", "last_seen"),
  ], (row) => row.fingerprint),
  instances: () => new Table("instances", "Instances", [
    { title: "Instance", kind: "named", text: (row) => row.name },
    { title: "State", kind: "said", text: (row) => row.state.replaceAll("_", " "), version: (row) => JSON.stringify([row.state, row.since, row.reason, row.error]), make: stateOf },
    count("Weight", "weight"), count("Now", "active"), count("Requests", "requests"), count("Failed", "failed"), time("Average", "avg_ms"), time("p99", "p99_ms"),
    { title: "Actions", kind: "acting", version: (row) => `${acts} ${row.state}`, make: (row) => (acts ? [DRAINED.includes(row.state) ? button("Return …", () => bringBack(row.name)) : button("Drain …", () => drain(row.name))] : []) },
  ], (row) => row.name),
  pools: () => new Table("pools", "Connection pools", [
    { title: "Pool", kind: "named", text: (row) => row.name },
    { title: "State", kind: "said", text: (row) => (row.healthy ? "connected" : "cannot connect"), version: (row) => JSON.stringify([row.healthy, row.error]), make: (row) => [pill(row.healthy ? "connected" : "cannot connect", row.healthy ? "good" : "bad"), ...lines(row.error)] },
    { title: "On loan", text: (row) => `${number(row.active)} of ${number(row.max)}`, value: (row) => row.active },
    count("Waiting", "waiting"), time("p99 wait", "p99_wait_ms"), count("Failed", "failed"), count("Leaked", "leaked"),
  ], (row) => row.name),
  limits: () => new Table("limits", "Rate limits", [
    { title: "Limit", kind: "named", text: (row) => row.name },
    count("Per second", "rate"), count("Burst", "burst"), count("Clients", "clients"), count("In flight", "in_flight"), count("Allowed", "allowed"), count("Refused", "blocked"),
  ], (row) => row.name),
  priorities: () => new Table("priorities", "Outbound by priority", [
    { title: "Priority", kind: "named", text: (row) => row.name }, count("Queued", "queued"), count("Sent", "sent"), count("Refused", "refused"),
  ], (row) => row.name),
};

function stateOf(row) {
  const since = row.since ? `since ${when(row.since)}` : "";
  const why = row.reason && !row.healthy ? `: ${row.reason}` : "";
  const told = why.includes(row.error.replace(/^health check: /, ""));
  return [pill(row.state.replaceAll("_", " "), instanceState(row)), ...lines(since + why, row.error && !told ? `Last error: ${row.error}` : "")];
}

const tables = {};
const show = (id, rows, empty) => (tables[id] ??= TABLES[id]()).show(rows, empty);

export function showTables(state) {
  acts = state.actions;
  const isOn = (key) => state.services.some((service) => service.key === key && service.state !== "off");
  // Of a front only the load balancer is meant to be on: what it has not, its instances have.
  document.body.toggleAttribute("data-front", Boolean(state.front));
  for (const [id, key] of [["slow", "query_optimizer"], ["n1", "query_optimizer"], ["pools", "connection_pool_manager"], ["limits", "rate_limiter"]]) {
    $(id).closest("section").hidden = Boolean(state.front) && !isOn(key);
  }
  const or = (key, flag, ...words) => (isOn(key) ? words : ["Off. Switch it on with ", code(`${flag} = True`)]);
  show("slow", state.slow, or("query_optimizer", "ENABLE_QUERY_OPTIMIZER", "No query has been slow. What counts as slow is ", code("QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD"), "."));
  show("n1", state.n_plus_one, or("query_optimizer", "ENABLE_QUERY_OPTIMIZER", "No query has been run once per row."));
  show("instances", state.instances, or("load_balancer", "ENABLE_LOAD_BALANCER", "No instance yet. Name them in ", code("LOAD_BALANCER_INSTANCES"), " or call ", code("add_instance"), "."));
  show("pools", state.pools, or("connection_pool_manager", "ENABLE_CONNECTION_POOLING", "No pool yet. Name them in ", code("DATABASE_POOLS"), " or call ", code("create_pool"), "."));
  show("limits", state.limits, or("rate_limiter", "ENABLE_RATE_LIMITER", "No limit has been used yet."));
  $("priorities").hidden = !isOn("outbound");
  if (isOn("outbound")) show("priorities", state.priorities, ["Nothing was sent yet."]);
}

// Events.

export function showEvents(events) {
  const panel = $("events");
  const version = JSON.stringify(events);
  if (panel.dataset.version === version) return;
  panel.dataset.version = version;
  if (!events.length) {
    panel.replaceChildren(element("p", { class: "empty" }, "Nothing to report since the start."));
    return;
  }
  const list = panel.querySelector("ol") ?? element("ol", { class: "events", tabindex: "0", "aria-label": "Recent events" });
  list.replaceChildren(...events.map((event) => element(
    "li", {},
    element("time", { datetime: new Date(event.time * 1000).toISOString() }, when(event.time)),
    element("span", { class: "level", "data-level": event.level }, event.level),
    element("span", { class: "text" }, event.source === "query_optimizer" ? tidy(event.text) : event.text),
    element("span", { class: "count" }, event.count > 1 ? `${number(event.count)} times` : ""),
  )));
  if (!list.parentNode) panel.replaceChildren(list);
}

// A front's instances, each with figures of its own.

let together = null;
const headline = (key, unit) => ({
  text: (row) => withUnit(row.headlines?.[key] ?? null, unit), value: (row) => row.headlines?.[key] ?? null,
});

function unwell(row) {
  if (!row.answers) return [pill("no answer", "bad"), ...lines(`since ${row.since ? clock(row.since) : "the start"}: ${row.reason}`)];
  return [pill(row.overall[0], row.overall[1])];
}

export function showTogether(rows) {
  together ??= new Table("together", "Instances side by side", [
    { title: "Instance", kind: "named", text: (row) => row.name },
    { title: "State", kind: "said", text: (row) => (row.answers ? row.overall[0] : `no answer ${row.reason}`), version: (row) => JSON.stringify([row.answers, row.overall, row.since, row.reason]), make: unwell },
    { title: "Up", text: (row) => (row.uptime === undefined ? "–" : duration(row.uptime)), value: (row) => row.uptime ?? null },
    { title: "Memory", text: (row) => withUnit(row.process?.rss_mb ?? null, "MB"), value: (row) => row.process?.rss_mb ?? null },
    { title: "CPU", text: (row) => withUnit(row.process?.cpu_percent ?? null, "%"), value: (row) => row.process?.cpu_percent ?? null },
    { title: "Loop lag", text: (row) => withUnit(row.lag_ms ?? null, "ms"), value: (row) => row.lag_ms ?? null },
    { title: "Cache hits", ...headline("query_hit_rate", "%") },
    { title: "Pool in use", ...headline("pool_utilization", "%") },
    { title: "Refused", ...headline("block_rate", "%") },
    { title: "Batches", ...headline("batch_throughput", "/s") },
    { title: "Version", text: (row) => row.version ?? "–" },
  ], (row) => row.name);
  together.show(rows.map((row) => (row.answers ? { ...row, overall: overall(row.services) } : row)), ["No instance yet."]);
}
