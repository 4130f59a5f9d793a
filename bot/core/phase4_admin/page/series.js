// What charts draw: every sample of the last minutes, or steps of a longer range.

const MINUTES = 600;
const SHORTEST = 120; // seconds that a chart shows at least, so that a fresh start is not a dot in the corner

const live = { t: [], series: {} };
let now = 0;
let interval = 2;
let chosen = MINUTES;
let past = null; // the answer of dashboard/history for the range chosen, if there is one

export const range = () => chosen;
export const isLive = () => chosen === MINUTES;

export function choose(seconds) {
  chosen = seconds;
  past = null;
}

// The feed tells what is new since the last time.
export function remember(state) {
  const added = state.history;
  if (state.time < now) {
    live.t.length = 0; // the clock was set back, and all that is kept comes again
    live.series = {};
  }
  now = state.time;
  interval = state.interval;
  for (const key of Object.keys(added.series)) live.series[key] ??= new Array(live.t.length).fill(null);
  const last = live.t[live.t.length - 1] ?? -Infinity;
  const first = added.t.findIndex((at) => at > last);
  if (first >= 0) {
    const times = added.t.slice(first);
    live.t.push(...times);
    for (const [key, values] of Object.entries(live.series)) {
      values.push(...(added.series[key]?.slice(first) ?? new Array(times.length).fill(null)));
    }
  }
  const old = live.t.findIndex((at) => at >= now - MINUTES);
  if (old > 0) {
    live.t.splice(0, old);
    for (const values of Object.values(live.series)) values.splice(0, old);
  }
}

export function usePast(answer) {
  if (answer.seconds === chosen) past = answer;
}

export const hasPast = () => past !== null;

export const current = (key) => live.series[key]?.[live.t.length - 1] ?? null;
export const hasAny = (key) => (live.series[key] ?? []).some((value) => value !== null);

// Of one figure: times, values, and for steps their least and most; `from` and `to` bound the axis.
export function of(key) {
  if (isLive()) {
    const span = Math.min(MINUTES, Math.max(SHORTEST, now - (live.t[0] ?? now)));
    return { t: live.t, values: live.series[key] ?? [], gap: interval * 3, from: now - span, to: now };
  }
  const span = { from: now - chosen, to: now };
  const figure = past?.series[key];
  if (!figure) return { t: [], values: [], gap: 1, ...span };
  // A step is drawn where its middle is; the last one is not over.
  const t = past.t.map((at) => Math.min(at + past.step / 2, now));
  return { t, values: figure.mean, low: figure.low, high: figure.high, gap: past.step * 1.5, ...span };
}
