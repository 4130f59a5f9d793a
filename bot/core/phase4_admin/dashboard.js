// The page is built from the stream of /dashboard/feed. Whatever comes from there is set as text, never
// as markup.

const SPAN = 600; // seconds that a chart shows at most, and units of its width
const SHORTEST = 120; // seconds that it shows at least
const SVG = "http://www.w3.org/2000/svg";
const history = { t: [], series: {} };
const charts = new Map();
let latest = null;
let source = null;
let retry = 0;

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Figures.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function number(value, unit = "") {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return tenths.format(value);
  const size = Math.abs(value);
  if (size >= 100000) return compact.format(value);
  if (Number.isInteger(value) || size >= 100) return whole.format(value);
  if (size >= 10) return tenths.format(value);
  return fine.format(value);
}

const withUnit = (value, unit) => number(value, unit) + (unit && value !== null ? (unit === "/s" ? unit : ` ${unit}`) : "");

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [size, name] = parts[first];
  const next = parts[first + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return `${Math.floor(seconds / size)} ${name}` + (rest && next ? ` ${rest} ${next[1]}` : "");
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

// Charts: one SVG each, redrawn at every sample.

function makeChart(key, { label, unit, low = null, high = null, caption = true }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${SPAN} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const shape = (tag, name) => {
    const made = document.createElementNS(SVG, tag);
    made.setAttribute("class", name);
    svg.append(made);
    return made;
  };
  const area = shape("path", "area");
  const base = shape("line", "base");
  const bounds = [low, high].filter((bound) => bound !== null).map((bound) => [bound, shape("line", "bound")]);
  const curve = shape("path", "curve");
  const cursor = shape("line", "cursor");
  cursor.setAttribute("visibility", "hidden");
  line(base, 0, 100, SPAN, 100);
  const box = element("div", { class: "chart" });
  const value = element("b");
  if (caption) box.append(element("div", { class: "caption" }, element("span", {}, label), value));
  const readout = element("div", { class: "readout", hidden: "" });
  box.append(svg, readout);
  const chart = { key, label, unit, svg, area, curve, cursor, bounds, value, readout, box, low, high };
  svg.addEventListener("pointermove", (event) => point(chart, event));
  svg.addEventListener("pointerleave", () => point(chart, null));
  charts.set(key, chart);
  return box;
}

// As long as there is less to show, charts show less, so that a fresh start is not a dot in the corner.
const span = () => Math.min(SPAN, Math.max(SHORTEST, latest.time - (history.t[0] ?? latest.time)));
const across = (at) => SPAN - ((latest.time - at) / span()) * SPAN;

function line(node, x1, y1, x2, y2) {
  for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) node.setAttribute(name, value);
}

function top(chart, values) {
  if (chart.unit === "%" && chart.low !== null) return 100;
  const most = Math.max(0, ...values.filter((value) => value !== null));
  const least = Math.max(chart.low ?? 0, chart.high ?? 0) * 1.25;
  const wanted = Math.max(most * 1.1, least);
  if (chart.unit === "%") return Math.min(Math.max(wanted, 5), Math.max(100, most));
  return wanted || 1;
}

function draw(chart) {
  const values = history.series[chart.key] ?? [];
  const most = top(chart, values);
  const y = (value) => 100 - (Math.min(value, most) / most) * 96;
  let curve = "";
  let area = "";
  let open = null;
  let previous = null;
  const close = () => {
    if (open !== null) area += `L${previous} 100L${open} 100Z`;
    open = null;
  };
  history.t.forEach((at, index) => {
    const value = values[index];
    const x = across(at);
    const broken = index > 0 && at - history.t[index - 1] > latest.interval * 3;
    if (value === null || value === undefined || x < 0) {
      close();
      return;
    }
    if (broken) close();
    const step = `${open === null ? "M" : "L"}${x.toFixed(1)} ${y(value).toFixed(1)}`;
    curve += step;
    area += step;
    if (open === null) open = x.toFixed(1);
    previous = x.toFixed(1);
  });
  close();
  chart.curve.setAttribute("d", curve);
  chart.area.setAttribute("d", area);
  for (const [bound, node] of chart.bounds) line(node, 0, y(bound), SPAN, y(bound));
  const known = values.filter((value) => value !== null && value !== undefined);
  const last = values.length ? values[values.length - 1] : null;
  setText(chart.value, withUnit(last ?? null, chart.unit));
  const told = known.length
    ? `between ${withUnit(Math.min(...known), chart.unit)} and ${withUnit(Math.max(...known), chart.unit)}, now ${withUnit(last ?? null, chart.unit)}`
    : "no figures yet";
  chart.svg.setAttribute("aria-label", `${chart.label}, last ${duration(Math.round(span()))}: ${told}`);
}

function point(chart, event) {
  const box = chart.svg.getBoundingClientRect();
  let nearest = -1;
  if (event && latest && history.t.length) {
    const at = latest.time - span() + ((event.clientX - box.left) / box.width) * span();
    const values = history.series[chart.key] ?? [];
    let distance = latest.interval * 3;
    history.t.forEach((time, index) => {
      const away = Math.abs(time - at);
      if (away < distance && values[index] !== null && values[index] !== undefined) {
        nearest = index;
        distance = away;
      }
    });
  }
  chart.readout.hidden = nearest < 0;
  chart.cursor.setAttribute("visibility", nearest < 0 ? "hidden" : "visible");
  if (nearest < 0) return;
  const x = across(history.t[nearest]);
  line(chart.cursor, x, 0, x, 100);
  setText(chart.readout, `${clock(history.t[nearest])}  ${withUnit(history.series[chart.key][nearest], chart.unit)}`);
  const left = (x / SPAN) * box.width;
  const half = chart.readout.offsetWidth / 2;
  chart.readout.style.left = `${Math.min(Math.max(left, half), Math.max(half, box.width - half))}px`;
}

function remember(added) {
  for (const key of Object.keys(added.series)) {
    history.series[key] ??= new Array(history.t.length).fill(null);
  }
  const times = added.t.filter((at) => !history.t.length || at > history.t[history.t.length - 1]);
  const skipped = added.t.length - times.length;
  history.t.push(...times);
  for (const [key, values] of Object.entries(history.series)) {
    const more = added.series[key];
    values.push(...(more ? more.slice(skipped) : new Array(times.length).fill(null)));
  }
  const old = history.t.findIndex((at) => at >= latest.time - SPAN);
  if (old > 0) {
    history.t.splice(0, old);
    for (const values of Object.values(history.series)) values.splice(0, old);
  }
}

// Tiles and cards are made once and kept; only what changed is touched.

const VERDICTS = { in: "In target", low: "Below target", high: "Above target", idle: "Idle", off: "Off" };
const tiles = new Map();

function showTargets(lines) {
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
    setText(tile.note, none ? line.note : "");
    tile.note.hidden = !none || !line.note;
    tile.chart.hidden = line.verdict === "off" || (none && !(history.series[line.key] ?? []).some((value) => value !== null));
  }
}

const STATES = { on: ["On", "good"], degraded: ["Degraded", "warn"], failing: ["Failing", "bad"], off: ["Off", "none"] };
const cards = new Map();

function showServices(services) {
  for (const service of services) {
    let card = cards.get(service.key);
    if (!card) {
      card = {
        state: element("span", { class: "pill" }),
        why: element("p", { class: "why" }),
        off: element("p", { class: "off" }, "Switch it on with ", element("code", {}, `${service.flag} = True`)),
        facts: element("dl", { class: "facts" }),
        chart: makeChart(service.chart, { label: service.chart_label, unit: service.unit }),
        values: new Map(),
      };
      card.box = element(
        "article", { class: "card" },
        element("div", { class: "top" }, element("h3", {}, service.name), card.state),
        card.why, card.off, card.facts, card.chart,
      );
      cards.set(service.key, card);
      $("services").append(card.box);
    }
    const [text, tone] = STATES[service.state];
    const off = service.state === "off";
    card.box.dataset.state = service.state;
    card.box.dataset.service = service.key;
    card.state.dataset.tone = tone;
    setText(card.state, text);
    setText(card.why, service.why);
    card.why.hidden = !service.why;
    card.off.hidden = !off;
    card.facts.hidden = off;
    card.chart.hidden = off;
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
        value.replaceChildren(shown, ...(fact.unit ? [element("small", {}, fact.unit)] : []));
      }
    }
  }
}

function showOverall(services) {
  const of = (state) => services.filter((service) => service.state === state).length;
  const on = services.length - of("off");
  const [text, tone] = of("failing")
    ? [`${of("failing")} failing`, "bad"]
    : of("degraded")
      ? [`${of("degraded")} degraded`, "warn"]
      : on
        ? [`${on} of ${services.length} services on, all well`, "good"]
        : ["All services are off", "none"];
  $("overall").dataset.tone = tone;
  setText($("overall"), text);
}

function showProcess(state) {
  const figures = [
    ["Up", duration(state.uptime)],
    ["Memory", withUnit(state.process.rss_mb, "MB")],
    ["CPU", `${number(state.process.cpu_percent, "%")} %`],
    ["Open files", number(state.process.open_fds)],
    ["Loop lag", withUnit(state.lag_ms, "ms")],
  ];
  const strip = $("process");
  figures.forEach(([name, value], index) => {
    if (!strip.children[index]) strip.append(element("div", {}, element("dt", {}, name), element("dd")));
    setText(strip.children[index].lastChild, value);
  });
}

// Tables are made anew when their rows changed, and only then: a selection or a scroll position survives.

function showTable(id, name, columns, rows, empty) {
  const panel = $(id);
  const version = JSON.stringify([rows, rows.length ? "" : empty.map(String)]);
  if (panel.dataset.version === version) return;
  panel.dataset.version = version;
  if (!rows.length) {
    panel.replaceChildren(element("p", { class: "empty" }, ...empty));
    return;
  }
  let body = panel.querySelector("tbody");
  if (!body) {
    body = element("tbody");
    const head = element("thead", {}, element("tr", {}, ...columns.map(([title]) => element("th", { scope: "col" }, title))));
    panel.replaceChildren(
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, element("table", {}, head, body)),
    );
  }
  body.replaceChildren(
    ...rows.map((row) =>
      element("tr", {}, ...columns.map(([, cell, kind]) => {
        const made = cell(row);
        return element("td", kind ? { class: kind } : {}, ...(Array.isArray(made) ? made : [made]));
      })),
    ),
  );
}

// A query's shape comes as spaced tokens.
const tidy = (text) => text.replace(/\s+([,.)])/g, "$1").replace(/([(.])\s+/g, "$1").replace(/\b(count|sum|avg|min|max|coalesce|lower|upper|length)\s\(/gi, "$1(");
const code = (text) => element("code", {}, text);
const pill = (text, tone) => element("span", { class: "pill", "data-tone": tone }, text);
const isOn = (state, key) => state.services.some((service) => service.key === key && service.state !== "off");

function emptyOr(state, key, flag, words) {
  return isOn(state, key) ? words : ["Off. Switch it on with ", code(`${flag} = True`)];
}

function showTables(state) {
  showTable(
    "slow", "Slow queries",
    [
      ["Query", (row) => code(tidy(row.query)), "query"],
      ["Slow", (row) => number(row.slow)],
      ["Runs", (row) => number(row.executions)],
      ["Average", (row) => withUnit(row.avg_ms, "ms")],
      ["Longest", (row) => withUnit(row.max_ms, "ms")],
      ["Last", (row) => clock(row.last_seen)],
    ],
    state.slow,
    emptyOr(state, "query_optimizer", "ENABLE_QUERY_OPTIMIZER", [
      "No query has been slow. What counts as slow is ", code("QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD"), ".",
    ]),
  );
  showTable(
    "n1", "N+1 findings",
    [
      ["Query", (row) => [
        code(tidy(row.query)),
        ...row.where.slice(0, 2).map((place) => element("p", { class: "where" }, place)),
        ...(row.instead ? [element("p", { class: "where" }, "Instead: ", code(tidy(row.instead)))] : []),
      ], "query"],
      ["Values", (row) => number(row.count)],
      ["Requests", (row) => number(row.requests)],
      ["Last", (row) => clock(row.last_seen)],
    ],
    state.n_plus_one,
    emptyOr(state, "query_optimizer", "ENABLE_QUERY_OPTIMIZER", ["No query has been run once per row."]),
  );
  showTable(
    "instances", "Instances",
    [
      ["Instance", (row) => row.name],
      ["State", (row) => pill(row.state.replaceAll("_", " "), row.healthy ? "good" : "bad")],
      ["Now", (row) => number(row.active)],
      ["Requests", (row) => number(row.requests)],
      ["Failed", (row) => number(row.failed)],
      ["Average", (row) => withUnit(row.avg_ms ?? null, "ms")],
      ["p99", (row) => withUnit(row.p99_ms ?? null, "ms")],
    ],
    state.instances,
    emptyOr(state, "load_balancer", "ENABLE_LOAD_BALANCER", [
      "No instance yet. Name them in ", code("LOAD_BALANCER_INSTANCES"), " or call ", code("add_instance"), ".",
    ]),
  );
  showTable(
    "pools", "Connection pools",
    [
      ["Pool", (row) => row.name],
      ["State", (row) => pill(row.healthy ? "connected" : "cannot connect", row.healthy ? "good" : "bad")],
      ["On loan", (row) => `${number(row.active)} of ${number(row.max)}`],
      ["Waiting", (row) => number(row.waiting)],
      ["p99 wait", (row) => withUnit(row.p99_wait_ms ?? null, "ms")],
      ["Failed", (row) => number(row.failed)],
      ["Leaked", (row) => number(row.leaked)],
    ],
    state.pools,
    emptyOr(state, "connection_pool_manager", "ENABLE_CONNECTION_POOLING", [
      "No pool yet. Name them in ", code("DATABASE_POOLS"), " or call ", code("create_pool"), ".",
    ]),
  );
  showTable(
    "limits", "Rate limits",
    [
      ["Limit", (row) => row.name],
      ["Per second", (row) => number(row.rate)],
      ["Burst", (row) => number(row.burst)],
      ["Clients", (row) => number(row.clients)],
      ["Allowed", (row) => number(row.allowed)],
      ["Refused", (row) => number(row.blocked)],
    ],
    state.limits,
    emptyOr(state, "rate_limiter", "ENABLE_RATE_LIMITER", ["No limit has been used yet."]),
  );
}

function showEvents(events) {
  const panel = $("events");
  const version = JSON.stringify(events);
  if (panel.dataset.version === version) return;
  panel.dataset.version = version;
  if (!events.length) {
    panel.replaceChildren(element("p", { class: "empty" }, "Nothing to report since the start."));
    return;
  }
  const list = panel.querySelector("ol") ?? element("ol", { class: "events", tabindex: "0", "aria-label": "Recent events" });
  list.replaceChildren(
    ...events.map((event) =>
      element(
        "li", {},
        element("time", { datetime: new Date(event.time * 1000).toISOString() }, clock(event.time)),
        element("span", { class: "level", "data-level": event.level }, event.level),
        element("span", { class: "text" }, event.source === "query_optimizer" ? tidy(event.text) : event.text),
        element("span", { class: "count" }, event.count > 1 ? `${number(event.count)} times` : ""),
      ),
    ),
  );
  if (!list.parentNode) panel.replaceChildren(list);
}

function show(state) {
  latest = state;
  remember(state.history);
  showOverall(state.services);
  showProcess(state);
  showTargets(state.headlines);
  showServices(state.services);
  showTables(state);
  showEvents(state.events);
  for (const chart of charts.values()) if (!chart.box.hidden) draw(chart);
  setText($("version"), `Version ${state.version}`);
  $("figures").hidden = false;
}

// The stream.

function connected(text, tone) {
  $("connection").dataset.tone = tone;
  setText($("connection"), text);
  document.body.toggleAttribute("data-stale", tone === "bad");
}

function listen() {
  source?.close();
  source = new EventSource("dashboard/feed");
  source.onmessage = (event) => {
    retry = 0;
    show(JSON.parse(event.data));
    connected("Live", "good");
  };
  source.onerror = () => {
    connected(latest ? `No connection since ${clock(latest.time)}, trying again` : "No connection, trying again", "bad");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    retry = Math.min(retry + 1, 5);
    setTimeout(begin, retry * 2000);
  };
}

async function begin() {
  let access;
  try {
    access = await (await fetch("dashboard/access", { cache: "no-store" })).json();
  } catch {
    setTimeout(begin, 3000);
    return;
  }
  $("sign-in").hidden = access.granted;
  $("sign-out").hidden = !(access.needed && access.granted);
  if (access.granted) {
    listen();
    return;
  }
  $("figures").hidden = true;
  $("overall").dataset.tone = "none";
  setText($("overall"), "Not signed in");
  connected("", "none");
  $("token").focus();
}

async function signIn(token) {
  const answer = await fetch("dashboard/access", { method: "POST", body: JSON.stringify({ token }) });
  const wrong = answer.ok ? "" : "That is not the token of this service.";
  setText($("sign-in-error"), wrong);
  if (answer.ok) $("token").value = "";
  await begin();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn($("token").value);
});
$("sign-out").addEventListener("click", async () => {
  source?.close();
  await fetch("dashboard/access", { method: "DELETE" });
  location.reload();
});

// The theme: the system's, unless chosen otherwise.

const THEMES = ["system", "light", "dark"];
let theme = "system";

function useTheme(wanted) {
  theme = THEMES.includes(wanted) ? wanted : "system";
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
}

try {
  useTheme(localStorage.getItem("phase4-theme"));
} catch {
  useTheme("system"); // no storage, no memory of the choice
}
$("theme").addEventListener("click", () => {
  useTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  try {
    localStorage.setItem("phase4-theme", theme);
  } catch {
    // As above.
  }
});

// A link from the service's start has the token in its fragment, which never leaves the browser.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  window.history.replaceState(null, "", location.pathname);
  signIn(given);
} else {
  begin();
}
