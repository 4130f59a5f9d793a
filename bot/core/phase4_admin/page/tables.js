// Tables that are sorted and searched. Rows and cells are kept while they are the same, so that focus, a
// selection or a scroll position survives new figures.

import { $, element, setText } from "./dom.js";

const SEARCHED_FROM = 6; // rows from which there is a field to search them

// A column: title, text(row) to sort, search and show; make(row) for nodes; kind, the cell's class; value(row) to
// sort by something else than the text; numeric columns begin with the largest.
export class Table {
  constructor(id, name, columns, key) {
    this.panel = $(id);
    this.name = name;
    this.columns = columns;
    this.key = key;
    this.rows = [];
    this.made = new Map();
    this.order = null; // { column, falling }
    this.sought = "";
    this.empty = element("p", { class: "empty" });
    this.body = element("tbody");
    this.heads = columns.map((column) => this.#head(column));
    this.scroll = element(
      "div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${name}, table` },
      element("table", {}, element("thead", {}, element("tr", {}, ...this.heads)), this.body),
    );
    this.field = element("input", { type: "search", "aria-label": `Search ${name.toLowerCase()}`, placeholder: "Search", autocomplete: "off", spellcheck: "false" });
    this.count = element("span", { class: "count", role: "status" });
    this.search = element("div", { class: "search", hidden: true }, this.field, this.count);
    this.field.addEventListener("input", () => {
      this.sought = this.field.value.trim().toLowerCase();
      this.#draw();
    });
    this.panel.replaceChildren(this.search, this.scroll, this.empty);
  }

  #head(column) {
    if (!column.text) return element("th", { scope: "col" }, element("span", { class: "hidden-text" }, column.title));
    const head = element("th", { scope: "col", class: column.kind });
    head.append(element("button", { type: "button", class: "sort", onclick: () => this.#sort(column) }, column.title));
    return head;
  }

  // First the larger or, of words, the earlier in the alphabet; then the other way; then as it came.
  #sort(column) {
    const first = this.rows.some((row) => typeof value(column, row) === "number");
    if (this.order?.column !== column) this.order = { column, falling: first };
    else if (this.order.falling === first) this.order = { column, falling: !first };
    else this.order = null;
    this.heads.forEach((head, place) => {
      const by = this.columns[place] === this.order?.column;
      if (by) head.setAttribute("aria-sort", this.order.falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.#draw();
  }

  // `empty`: what to say when there is no row.
  show(rows, empty) {
    this.rows = rows;
    const words = rows.length ? "" : empty.map((part) => part.textContent ?? part).join("");
    if (!rows.length && this.empty.textContent !== words) this.empty.replaceChildren(...empty);
    this.#draw();
  }

  #draw() {
    if (this.rows.length >= SEARCHED_FROM) this.search.hidden = false;
    if (!this.rows.length && !this.sought) this.search.hidden = true;
    let shown = this.rows;
    if (this.sought) shown = shown.filter((row) => this.columns.some((column) => column.text && String(column.text(row)).toLowerCase().includes(this.sought)));
    setText(this.count, this.sought ? `${shown.length} of ${this.rows.length}` : "");
    if (this.order) shown = [...shown].sort((one, other) => compare(this.order, one, other));
    this.scroll.hidden = !this.rows.length;
    this.empty.hidden = this.rows.length > 0;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const wanted = new Set();
    let before = null;
    for (const row of shown) {
      const key = this.key(row);
      wanted.add(key);
      const line = this.#line(key, row);
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== line) this.body.insertBefore(line, place);
      before = line;
    }
    for (const [key, line] of this.made) {
      if (!wanted.has(key)) {
        line.remove();
        this.made.delete(key);
      }
    }
    // A row that was moved has lost the focus.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  #line(key, row) {
    let line = this.made.get(key);
    if (!line) {
      line = element("tr", {}, ...this.columns.map((column) => element("td", { class: column.kind })));
      this.made.set(key, line);
    }
    this.columns.forEach((column, place) => {
      const cell = line.children[place];
      const version = String(column.version ? column.version(row) : column.text(row));
      if (cell.dataset.version === version) return;
      cell.dataset.version = version;
      const made = column.make ? column.make(row) : version;
      cell.replaceChildren(...(Array.isArray(made) ? made : [made]));
    });
    return line;
  }
}

const value = (column, row) => (column.value ? column.value(row) : column.text(row));

function compare({ column, falling }, one, other) {
  const a = value(column, one);
  const b = value(column, other);
  const none = (what) => what === null || what === undefined;
  if (none(a) || none(b)) return none(a) - none(b); // what is not known comes last either way
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return falling ? -order : order;
}
