// Elements, and figures as words. Whatever comes from the service is set as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const isNone = (value) => value === null || value === undefined;

// Nothing to tell is a dash: idle is neither 0 % nor 100 %.
export function number(value, unit = "") {
  if (isNone(value)) return "–";
  if (unit === "%") return tenths.format(value);
  const size = Math.abs(value);
  if (size >= 100000) return compact.format(value);
  if (Number.isInteger(value) || size >= 100) return whole.format(value);
  if (size >= 10) return tenths.format(value);
  return fine.format(value);
}

export function withUnit(value, unit) {
  if (isNone(value) || !unit) return number(value, unit);
  return number(value, unit) + (unit === "/s" ? unit : ` ${unit}`);
}

// As short as an axis wants it.
export function tick(value, unit) {
  const size = Math.abs(value);
  const text = size >= 10000 ? compact.format(value) : size >= 10 || Number.isInteger(value) ? whole.format(value) : fine.format(value);
  return text + (unit === "/s" ? unit : unit ? ` ${unit}` : "");
}

export function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [size, name] = parts[first];
  const next = parts[first + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return `${Math.floor(seconds / size)} ${name}` + (rest && next ? ` ${rest} ${next[1]}` : "");
}

const seconds = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minutes = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });

// Unix seconds to the time of day here.
export const clock = (at) => seconds.format(new Date(at * 1000));
export const clockShort = (at) => minutes.format(new Date(at * 1000));

// The same with the day, unless that is today.
export function when(at) {
  if (isNone(at)) return "–";
  const date = new Date(at * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock(at) : `${day.format(date)} ${clock(at)}`;
}

// A query's shape comes as spaced tokens.
export const tidy = (text) =>
  text
    .replace(/\s+\.\s+/g, ".")
    .replace(/\s+([,)])/g, "$1")
    .replace(/\(\s+/g, "(")
    .replace(/\b(count|sum|avg|min|max|coalesce|lower|upper|length)\s\(/gi, "$1(");

export const code = (text) => element("code", {}, text);
export const pill = (text, tone) => element("span", { class: "pill", "data-tone": tone }, text);
export const button = (text, act, attributes = {}) => element("button", { type: "button", onclick: act, ...attributes }, text);

// An answer's JSON, or an Error with what it says.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(30000), ...options });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "No answer within 30 s." : "The service cannot be reached.", { cause: error });
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  const told = body?.error;
  const said = typeof told === "string" ? told : told?.message;
  const error = new Error(said || `The service answered ${answer.status}.`);
  error.status = answer.status;
  throw error;
}
