// What an operator can do. Each action says what will happen before it does, and what came of it.

import { openDialog } from "./dialogs.js";
import { $, ask, button, element, number, setText, when } from "./dom.js";

const send = (name, body) =>
  ask(`actions/${name}`, { method: "POST", headers: { "Content-Type": "application/json" }, body });

// Ids may have more digits than a number here can hold: digits are sent as they were typed.
const asId = (text, isText) => (/^-?\d{1,30}$/.test(text) && !isText ? text.replace(/^(-?)0+(?=\d)/, "$1") : JSON.stringify(text));
const quoted = (text) => `“${text}”`;

// Field: name, label, type, value, hint. What will happen is told of the values as they are typed.
function confirmAction({ title, fields = [], happens, verb, danger = false, name, body, check = () => "" }) {
  const inputs = Object.fromEntries(fields.map((field) => [field.name, element("input", {
    id: `field-${field.name}`, type: field.type ?? "text", value: field.value, required: field.type !== "checkbox", autocomplete: "off", spellcheck: "false",
    min: field.min, max: field.max, "aria-describedby": field.hint ? `hint-${field.name}` : null,
  })]));
  const values = () => Object.fromEntries(Object.entries(inputs).map(([key, input]) => [key, input.type === "checkbox" ? input.checked : input.value.trim()]));
  const told = element("p", { class: "happens" });
  const outcome = element("p", { class: "outcome", role: "status" });
  const submit = element("button", { type: "submit", class: danger ? "danger" : "primary" }, verb);
  const cancel = button("Cancel", () => opened.dialog.close());
  const form = element(
    "form", { novalidate: true },
    ...fields.map((field) => element(
      "div", { class: field.type === "checkbox" ? "check" : "labelled" },
      element("label", { for: `field-${field.name}` }, field.label), inputs[field.name],
      ...(field.hint ? [element("p", { class: "quiet", id: `hint-${field.name}` }, field.hint)] : []),
    )),
    told, outcome,
    element("div", { class: "buttons" }, submit, cancel),
  );
  const tell = () => setText(told, happens(values()));
  const opened = openDialog(title, form);
  tell();
  form.addEventListener("input", tell);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = values();
    const missing = fields.find((field) => field.type !== "checkbox" && !given[field.name] && (field.needed?.(given) ?? true));
    const wrong = missing ? `${missing.label}: expected a value` : check(given);
    if (wrong) {
      outcome.dataset.tone = "bad";
      setText(outcome, wrong);
      inputs[(missing ?? fields[0])?.name]?.focus();
      return;
    }
    submit.disabled = true;
    outcome.dataset.tone = "none";
    setText(outcome, "Working …");
    try {
      const answer = await send(name, body(given));
      outcome.dataset.tone = "good";
      setText(outcome, answer?.done ?? "Done.");
      for (const input of Object.values(inputs)) input.disabled = true;
      told.hidden = true;
      submit.remove();
      setText(cancel, "Close");
      cancel.focus();
    } catch (error) {
      outcome.dataset.tone = "bad";
      setText(outcome, `Not done: ${error.message}`);
      submit.disabled = false;
    }
    showAudit();
  });
  (Object.values(inputs)[0] ?? cancel).focus();
  return opened;
}

const dropNamespace = () => confirmAction({
  title: "Drop a namespace", name: "cache.drop_namespace", verb: "Drop the namespace", danger: true,
  fields: [{ name: "namespace", label: "Namespace", value: "default" }],
  happens: ({ namespace }) => `Every entry of the namespace ${quoted(namespace)} is removed, here and in Redis. The next reads of it load anew.`,
  body: ({ namespace }) => JSON.stringify({ namespace }),
});

const dropTag = () => confirmAction({
  title: "Drop a tag", name: "cache.drop_tag", verb: "Drop the tag", danger: true,
  fields: [{ name: "tag", label: "Tag" }],
  happens: ({ tag }) => `Every entry with the tag ${quoted(tag)} is removed, here and in Redis. The next reads of them load anew.`,
  body: ({ tag }) => JSON.stringify({ tag }),
});

const resetClient = () => confirmAction({
  title: "Reset a client's limit", name: "limiter.reset_client", verb: "Reset the client",
  fields: [
    { name: "client", label: "Client", hint: "As the bot names it to the limiter: often the user's id." },
    { name: "text", label: "The id is a text, though it consists of digits", type: "checkbox" },
  ],
  happens: ({ client, text }) => `The client ${client ? asId(client, text) : "…"} may send its whole burst again at once, and its waits and backoff are forgotten.`,
  body: ({ client, text }) => `{"client":${asId(client, text)}}`,
});

const CHAT = [
  { name: "chat", label: "Chat", hint: "Its id, or @name.", needed: ({ all }) => !all },
  { name: "all", label: "All chats", type: "checkbox" },
];
const ofChat = ({ chat, all }) => (all ? "null" : asId(chat));

const holdChat = () => confirmAction({
  title: "Hold a chat", name: "outbound.hold", verb: "Hold the chat",
  fields: [...CHAT, { name: "seconds", label: "Seconds", type: "number", value: "60", min: "1" }],
  happens: ({ chat, all, seconds }) => (all
    ? `Nothing is sent to anybody for ${seconds || "…"} seconds. All that the bot wants to send waits.`
    : `Nothing is sent to ${chat || "the chat"} for ${seconds || "…"} seconds. What the bot wants to send there waits; all other chats go on.`),
  check: ({ seconds }) => (Number(seconds) > 0 ? "" : "Seconds: expected a number above 0"),
  body: (given) => `{"chat":${ofChat(given)},"seconds":${Number(given.seconds)}}`,
});

const releaseChat = () => confirmAction({
  title: "Release a chat", name: "outbound.release", verb: "Release the chat",
  fields: CHAT,
  happens: ({ chat, all }) => `What waits for ${all ? "a hold of all chats" : chat || "the chat"} may leave again at once. If Telegram itself had refused it, it may refuse again, and for longer.`,
  body: (given) => `{"chat":${ofChat(given)}}`,
});

export const drain = (instance) => confirmAction({
  title: `Drain ${instance}`, name: "balancer.drain", verb: "Drain the instance", danger: true,
  happens: () => `${instance} gets no new requests; those in progress end. Its sessions move to other instances. Return it to bring it back.`,
  body: () => JSON.stringify({ instance }),
});

export const bringBack = (instance) => confirmAction({
  title: `Return ${instance}`, name: "balancer.return", verb: "Return the instance",
  happens: () => `${instance} gets requests again, as the strategy chooses.`,
  body: () => JSON.stringify({ instance }),
});

export const resetStatistics = () => confirmAction({
  title: "Reset statistics", name: "statistics.reset", verb: "Reset the statistics", danger: true,
  happens: () => "Every counter of every service begins at zero, and slow queries and N+1 findings are forgotten. Caches, limits and queues stay as they are; charts keep their past.",
  body: () => "{}",
});

// By the service on whose card they are.
export const OF_SERVICES = {
  cache_manager: [["Drop a namespace …", dropNamespace], ["Drop a tag …", dropTag]],
  rate_limiter: [["Reset a client …", resetClient]],
  batch_processor: [["Dead letters …", openDeadLetters]],
  outbound: [["Hold a chat …", holdChat], ["Release a chat …", releaseChat]],
};

// Dead letters.

const PAGE = 50;

async function openDeadLetters() {
  const list = element("tbody");
  const count = element("p", { class: "quiet", role: "status" }, "Asking …");
  const outcome = element("p", { class: "outcome", role: "status" });
  const confirm = element("div", { class: "confirm", hidden: true });
  const chosen = () => [...list.querySelectorAll("input:checked")].map((box) => box.value);
  const all = element("input", { type: "checkbox", "aria-label": "Choose all that are listed" });
  const replay = button("Replay …", () => ask_("replay"));
  const drop = button("Drop …", () => ask_("drop"), { class: "danger" });
  const more = button("Show more", () => load());
  const table = element(
    "div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Dead letters, table" },
    element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, all), ...["Item", "Since", "Tries", "Error", "Data"].map((title) => element("th", { scope: "col" }, title)))), list),
  );
  const { heading } = openDialog("Dead letters", element("p", { class: "quiet" }, "Items that were given up after their last try. They wait here until they are replayed or dropped."), count, table, more, element("div", { class: "buttons" }, replay, drop), confirm, outcome);
  heading.focus();
  let offset = 0;

  const update = () => {
    const some = chosen().length > 0;
    replay.disabled = drop.disabled = !some;
    all.checked = some && chosen().length === list.children.length;
  };
  all.addEventListener("change", () => {
    for (const box of list.querySelectorAll("input")) box.checked = all.checked;
    update();
  });
  list.addEventListener("change", update);

  async function load() {
    try {
      const told = await ask(`dead-letters?offset=${offset}&limit=${PAGE}`);
      for (const item of told.items) {
        list.append(element(
          "tr", {},
          element("td", {}, element("input", { type: "checkbox", value: item.item_id, "aria-label": `Choose ${item.item_id}` })),
          element("td", {}, button(item.item_id, () => openItem(item.item_id), { class: "open" })),
          element("td", {}, when(Date.parse(item.at) / 1000)),
          element("td", {}, number(item.attempts)),
          element("td", { class: "long" }, item.error),
          element("td", { class: "long" }, String(item.data)),
        ));
      }
      offset += told.items.length;
      setText(count, told.total ? `${number(list.children.length)} of ${number(told.total)} are listed` : "There are none.");
      more.hidden = list.children.length >= told.total || !told.items.length;
      table.hidden = !list.children.length;
    } catch (error) {
      outcome.dataset.tone = "bad";
      setText(outcome, error.message);
      more.hidden = true;
    }
    update();
  }

  function ask_(what) {
    const ids = chosen();
    const items = ids.length === 1 ? "1 item" : `${number(ids.length)} items`;
    const said = what === "replay"
      ? `${items} go back into the queue and are processed again, with all their tries. What failed may fail again.`
      : `${items} are removed for good. Nobody can replay them after that.`;
    const no = button("Cancel", () => { confirm.hidden = true; replay.focus(); });
    const yes = button(what === "replay" ? `Replay ${items}` : `Drop ${items}`, async () => {
      yes.disabled = true;
      try {
        const answer = await send(`batch.${what}_dead_letters`, JSON.stringify({ item_ids: ids }));
        outcome.dataset.tone = "good";
        setText(outcome, answer?.done ?? "Done.");
        confirm.hidden = true;
        list.replaceChildren();
        offset = 0;
        await load();
        heading.focus();
      } catch (error) {
        outcome.dataset.tone = "bad";
        setText(outcome, `Not done: ${error.message}`);
        yes.disabled = false;
      }
      showAudit();
    }, { class: what === "replay" ? "primary" : "danger" });
    confirm.replaceChildren(element("p", { class: "happens" }, said), element("div", { class: "buttons" }, yes, no));
    confirm.hidden = false;
    setText(outcome, "");
    no.focus();
  }

  await load();
}

async function openItem(id) {
  const { body, heading } = openDialog(`Dead letter ${id}`, element("p", { class: "quiet", role: "status" }, "Asking …"));
  heading.focus();
  try {
    const item = await ask(`dead-letters/${encodeURIComponent(id)}`);
    body.replaceChildren(
      element("dl", { class: "facts" }, ...[["Since", when(Date.parse(item.at) / 1000)], ["Tries", number(item.attempts)]].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
      element("h3", {}, "Error"), element("pre", { tabindex: "0" }, String(item.error)),
      element("h3", {}, "Data"), element("pre", { tabindex: "0" }, typeof item.data === "string" ? item.data : JSON.stringify(item.data, null, 2)),
    );
  } catch (error) {
    body.replaceChildren(element("p", { class: "error", role: "alert" }, error.message));
  }
}

// What was done, by whom.

export async function showAudit() {
  const panel = $("audit");
  let lines;
  try {
    const told = await ask("audit");
    lines = Array.isArray(told) ? told : told.lines ?? told.audit ?? told.items ?? [];
  } catch (error) {
    panel.replaceChildren(element("p", { class: "empty" }, error.message));
    return;
  }
  const version = JSON.stringify(lines);
  if (panel.dataset.version === version) return;
  panel.dataset.version = version;
  if (!lines.length) {
    panel.replaceChildren(element("p", { class: "empty" }, "Nothing was done from here since the start."));
    return;
  }
  const newest = [...lines].sort((one, other) => Date.parse(other.at) - Date.parse(one.at));
  panel.replaceChildren(element("ol", { class: "events audit", tabindex: "0", "aria-label": "Actions taken" }, ...newest.map((line) => element(
    "li", {},
    element("time", { datetime: line.at }, when(Date.parse(line.at) / 1000)),
    element("span", { class: "level" }, line.by ?? ""),
    element("span", { class: "text" }, element("b", {}, line.action), " ", String(line.target ?? "")),
    element("span", { class: "count" }, String(line.outcome ?? "")),
  ))));
}
