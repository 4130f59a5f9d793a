// A query opened: its whole shape, where it is run, what to do about it.

import { copyButton, openDialog } from "./dialogs.js";
import { ask, code, element, number, pill, tidy, when, withUnit } from "./dom.js";

const TONES = { info: "note", warning: "warn", error: "bad" };

export async function openQuery(row, title) {
  const { body, heading } = openDialog(title, element("p", { class: "quiet", role: "status" }, "Asking the query optimizer …"));
  heading.focus();
  try {
    body.replaceChildren(...described(await ask(`dashboard/queries/${encodeURIComponent(row.fingerprint)}`)));
  } catch (error) {
    body.replaceChildren(element("p", { class: "error", role: "alert" }, error.message));
  }
}

const part = (title, ...content) => element("section", {}, element("h3", {}, title), ...content);
const copyable = (text, what) => element("div", { class: "copyable" }, element("pre", { tabindex: "0" }, code(text)), element("div", {}, ...copyButton(text, what)));

function described(query) {
  const facts = [
    ["Runs", number(query.executions)],
    ["Slow", number(query.slow)],
    ["Average", withUnit(query.avg_ms, "ms")],
    ["Longest", withUnit(query.max_ms, "ms")],
    ["Rows returned", number(query.rows)],
    ["Last", when(query.last_seen)],
  ];
  const shape = tidy(query.query);
  const found = [
    copyable(shape, "the query's shape"),
    element("dl", { class: "facts" }, ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
  ];
  if (query.n_plus_one) {
    const { count, requests, instead } = query.n_plus_one;
    found.push(part(
      "N+1: once per row where one query would do",
      element("p", {}, `It ran with ${number(count)} different values within one request, in ${number(requests)} ${requests === 1 ? "request" : "requests"}.`),
      ...(instead ? [element("p", {}, "Instead:"), copyable(tidy(instead), "the single query")] : []),
    ));
  }
  found.push(part(
    "Where it is run",
    query.where.length
      ? element("ul", { class: "places" }, ...query.where.map((place) => element("li", {}, code(place))))
      : element("p", { class: "quiet" }, "Not known: it was recorded without a call of its own."),
  ));
  found.push(part(
    "Index",
    ...(query.indexes.length
      ? query.indexes.flatMap(({ ddl, reason }) => [copyable(ddl, "the index"), element("p", { class: "quiet" }, `For ${reason}. Each write to the table will cost a little more; try it on a copy first.`)])
      : [element("p", { class: "quiet" }, "None is suggested.")]),
  ));
  found.push(part(
    "Advice",
    query.findings.length
      ? element("ul", { class: "findings" }, ...query.findings.map((finding) => element(
          "li", {}, pill(finding.code, TONES[finding.severity]), element("div", {}, element("p", {}, finding.message), element("p", { class: "quiet" }, finding.fix)),
        )))
      : element("p", { class: "quiet" }, "No rule has anything to say about it."),
  ));
  if (query.better) found.push(part("A better form", copyable(tidy(query.better), "the better form")));
  found.push(part(
    "Plan and evidence",
    query.evidence.length
      ? element("ul", { class: "places" }, ...query.evidence.map((sentence) => element("li", {}, sentence)))
      : element("p", { class: "quiet" }, "None: no pool explains it (", code("QUERY_OPTIMIZER_EXPLAIN_POOL"), "), or it cannot be explained."),
    ...(query.improvement ? [element("p", {}, `An index or cached results could save up to ${number(query.improvement, "%")} %.`)] : []),
  ));
  found.push(part("Caching", element("p", {}, query.caching)));
  return found;
}
