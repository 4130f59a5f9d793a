// The page: what comes from the stream dashboard/feed is shown, and how old it is.

import { resetStatistics, showAudit } from "./actions.js";
import { drawAll } from "./charts.js";
import { $, ask, button, clock, element, setText } from "./dom.js";
import { overall, showEvents, showProcess, showServices, showTables, showTargets, showTogether } from "./sections.js";
import * as series from "./series.js";

const RANGES = [[600, "10 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"]];

let shown = null; // the state that the page shows
let newest = null; // the last that came; another than the one shown only while the page is paused
let heard = 0; // when it came, by a clock that nobody sets
let asked = 0; // when the stream was asked for
let paused = null; // since when, Unix time
let held = []; // what came meanwhile: its history must not be missed
let source = null;
let retry = 0;
let stale = false;
let signedOut = false;

function show(state) {
  shown = state;
  showProcess(state);
  showTargets(state.headlines);
  showServices(state.services, state.actions);
  showTables(state);
  showEvents(state.events);
  $("figures").hidden = false;
  $("acting").hidden = !state.actions;
  $("reset").hidden = !state.actions;
  drawAll();
  setText($("name"), state.bot || "Phase 4");
  setText($("version"), `Phase 4, version ${state.version}`);
  $("api").hidden = !state.api;
}

function take(state) {
  newest = state;
  heard = performance.now();
  retry = 0;
  if (paused !== null) {
    held.push({ time: state.time, interval: state.interval, history: state.history });
    if (held.length > 300) held.shift();
  } else {
    series.remember(state);
    show(state);
  }
  judge();
}

// How all is, in the page and in its title. Figures that are old say nothing of now.

function judge() {
  if (signedOut) return;
  stale = newest !== null && performance.now() - heard > 2000 * newest.interval;
  const broken = source?.readyState !== EventSource.OPEN;
  let words;
  let tone = "none";
  if (newest === null) words = "Connecting";
  else if (stale) words = `No data since ${clock(newest.time)}`;
  else if (paused !== null) words = `Paused at ${clock(paused)}`;
  else [words, tone] = overall(newest.services);
  setText($("overall"), words);
  $("overall").dataset.tone = stale ? "bad" : tone;
  document.body.toggleAttribute("data-stale", stale);
  const name = newest?.bot || "Phase 4";
  const title = newest === null ? name : `${words} · ${name}`;
  if (document.title !== title) document.title = title;
  if (newest !== null && !stale && !broken) connected(paused === null ? "Live" : "Live, held back", "good");
  else if (newest !== null && stale) connected("Trying again", "bad");
}

function connected(text, tone) {
  $("connection").dataset.tone = tone;
  setText($("connection"), text);
}

setInterval(() => {
  judge();
  // A connection that is half dead says nothing, also not that it is.
  if (stale && source?.readyState === EventSource.OPEN && performance.now() - Math.max(heard, asked) > 15000) listen();
}, 500);

// The stream.

function listen() {
  source?.close();
  asked = performance.now();
  source = new EventSource("dashboard/feed");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => {
    connected("No connection, trying again", "bad");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    retry = Math.min(retry + 1, 5);
    setTimeout(begin, retry * 2000);
  };
}

async function begin() {
  let access;
  try {
    access = await ask("dashboard/access");
  } catch {
    setTimeout(begin, 3000);
    return;
  }
  signedOut = !access.granted;
  $("sign-in").hidden = access.granted;
  $("sign-out").hidden = !(access.needed && access.granted);
  if (access.granted) {
    listen();
    return;
  }
  newest = shown = null;
  $("figures").hidden = true;
  $("overall").dataset.tone = "none";
  document.body.removeAttribute("data-stale");
  setText($("overall"), "Not signed in");
  document.title = "Sign in · Phase 4";
  connected("", "none");
  $("token").focus();
}

async function signIn(token) {
  const answer = await fetch("dashboard/access", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
  setText($("sign-in-error"), answer.ok ? "" : "This is not the token of this service.");
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

// Pause: the page holds still, to be read; what comes meanwhile is kept, and shown afterwards.

$("pause").addEventListener("click", () => {
  if (paused === null) {
    paused = shown?.time ?? Date.now() / 1000;
  } else {
    paused = null;
    for (const each of held) series.remember(each);
    held = [];
    if (newest) show(newest);
  }
  $("pause").setAttribute("aria-pressed", String(paused !== null));
  judge();
});

// Ranges: of the first the stream has every sample, of the others the service tells steps.

async function readPast() {
  const wanted = series.range();
  if (series.isLive()) return;
  try {
    const answer = await ask(`dashboard/history?seconds=${wanted}`);
    series.usePast(answer);
    setText($("range-note"), "");
  } catch (error) {
    setText($("range-note"), error.message);
  }
  drawAll();
}

for (const [seconds, text] of RANGES) {
  const input = element("input", { type: "radio", name: "range", value: seconds, checked: seconds === 600 });
  input.addEventListener("change", () => {
    series.choose(seconds);
    drawAll();
    readPast();
  });
  $("ranges").append(element("label", {}, input, element("span", {}, text)));
}
setInterval(() => paused === null && !document.hidden && readPast(), 15000);

// A front asks its instances for figures of their own; and what was done is read again now and then.

async function readTogether() {
  if (!shown?.front || paused !== null || document.hidden) return;
  try {
    const { instances } = await ask("dashboard/instances");
    $("together-section").hidden = false;
    showTogether(instances);
  } catch {
    // The page says by itself that nothing comes.
  }
}
setInterval(readTogether, 4000);

let audited = 0;
setInterval(() => {
  if (!shown?.actions || document.hidden || performance.now() - audited < 15000) return;
  audited = performance.now();
  showAudit();
  readTogether();
}, 500);

$("reset").append(button("Reset statistics …", resetStatistics));

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
