// Dialogs: the browser's own, which keep the focus inside and give it back.

import { button, element, setText } from "./dom.js";

let number = 0;

// A dialog with a title; returns its parts. It is taken away when it is closed.
export function openDialog(title, ...content) {
  const id = `dialog-${(number += 1)}`;
  const heading = element("h2", { id, tabindex: "-1" }, title);
  const body = element("div", { class: "body" }, ...content);
  const dialog = element(
    "dialog", { "aria-labelledby": id },
    element("div", { class: "head" }, heading, button("Close", () => dialog.close(), { class: "close" })),
    body,
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, heading, body };
}

export function copyButton(text, what) {
  const said = element("span", { class: "said", role: "status" });
  const copy = button("Copy", async () => setText(said, (await copied(text, said)) ? "Copied" : "Select the text and copy it"), { "aria-label": `Copy ${what}` });
  return [copy, said];
}

async function copied(text, near) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https the browser has no clipboard for pages, but still the old command.
  }
  const field = element("textarea", { class: "hidden-text", readonly: true, "aria-hidden": "true", tabindex: "-1" }, text);
  const focused = document.activeElement;
  near.after(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
