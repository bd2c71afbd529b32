"use strict";
// The table of cases of one leaderboard: every method's Dice in every case, filtered, sorted, two methods compared.

const caseTable = {
  list: null,
  number: -1,
  order: [], // places of the cases that are shown, in the order of the table: the viewer goes through them
  sortBy: null, // { valueOf: place → value, descending }

  /** Show the cases of a list; worst first by the mean over methods, or by one method. */
  show(number, method = null) {
    if (number !== this.number) {
      this.number = number;
      this.list = data.lists[number];
      document.getElementById("cases-of").textContent = `of ${this.list.title}`;
      this._choices();
      this._head();
      this.sortBy = { valueOf: (place) => this._mean(place), descending: false };
    }
    if (method !== null) {
      const column = this.list.methods.indexOf(method);
      this.sortBy = { valueOf: (place) => lastDice(this.list, method)[place], descending: false };
      this._markSorted(4 + column, "ascending");
    }
    this.draw();
  },

  _mean(place) {
    const values = this.list.methods.map((method) => lastDice(this.list, method)[place]).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  },

  _choices() {
    const best = [...this.list.methods].sort((a, b) => d3.mean(lastDice(this.list, b)) - d3.mean(lastDice(this.list, a)));
    for (const [id, chosen] of [["case-a", best[0]], ["case-b", best[1] ?? best[0]]]) {
      const select = document.getElementById(id);
      select.replaceChildren(...this.list.methods.map((name) => element("option", { value: name, selected: name === chosen }, name)));
    }
  },

  pair() {
    return [document.getElementById("case-a").value, document.getElementById("case-b").value];
  },

  _difference(place) {
    const [a, b] = this.pair().map((method) => lastDice(this.list, method)[place]);
    return a === null || b === null ? null : a - b;
  },

  _head() {
    const columns = [
      ["case", (place) => this.list.cases[place], "ascending", ""],
      ["mm", (place) => this.list.diameter[place], "ascending", "diameter of the ball that has the volume of the target"],
      ["lesions", (place) => this.list.lesions[place] ?? null, "descending", ""],
      ["difference", (place) => this._difference(place), "ascending", "of the two methods chosen above"],
      ...this.list.methods.map((method) => [method, (place) => lastDice(this.list, method)[place], "ascending", "Dice"]),
    ];
    const row = element("tr");
    for (const [name, valueOf, first, title] of columns) {
      const heading = element("th", { scope: "col", class: name === "case" ? "" : "number", title }, this.list.methods.includes(name) ? swatch(name) : "", name);
      sorting(heading, first, (descending) => { this.sortBy = { valueOf, descending }; this.draw(); });
      row.append(heading);
    }
    document.querySelector("#case-table thead").replaceChildren(row);
  },

  _markSorted(column, direction) {
    const cells = document.querySelector("#case-table thead tr").cells;
    for (const cell of cells) cell.ariaSort = null;
    cells[column].ariaSort = direction;
  },

  _wanted(place) {
    const words = document.getElementById("case-search").value.trim().toLowerCase();
    const status = document.getElementById("case-status").value;
    const named = `${this.list.cases[place]} ${this.list.patients[place]}`.toLowerCase().includes(words);
    if (!named || status === "") return named;
    if (status === "picture") return this.list.pictures[place] !== null;
    return this.list.methods.some((method) => this.list.status[method][place] === status);
  },

  draw() {
    const places = this.list.cases.map((_, place) => place).filter((place) => this._wanted(place));
    this.order = sortRows(places, this.sortBy.valueOf, this.sortBy.descending);
    document.getElementById("case-count").textContent = `${this.order.length} of ${this.list.cases.length}`;
    document.querySelector("#case-table tbody").replaceChildren(...this.order.map((place) => this._row(place)));
  },

  _row(place) {
    const list = this.list;
    const difference = this._difference(place);
    const link = element("a", { href: `#list-${this.number}/case-${place}` }, list.cases[place]);
    const row = element("tr", {},
      element("th", { scope: "row" }, link),
      element("td", { class: "number" }, figure(list.diameter[place], 1)),
      element("td", { class: "number" }, String(list.lesions[place] ?? "–")),
      element("td", { class: "number difference" }, difference === null ? "–" : `${difference >= 0 ? "+" : "−"}${Math.abs(difference).toFixed(3)}`));
    for (const method of list.methods) {
      const value = lastDice(list, method)[place];
      const status = list.status[method][place];
      const cell = element("td", { class: `number heat ${status === "f" ? "bad" : ""}`, title: list.reasons[method][place] },
        status === "n" ? "no target" : status === "m" ? "missing" : `${status === "f" ? "× " : ""}${figure(value)}`);
      if (value !== null && status === "o") cell.style.setProperty("--share", value);
      row.append(cell);
    }
    row.addEventListener("click", (event) => { if (event.target !== link) link.click(); });
    return row;
  },
};

function listenToCases() {
  document.getElementById("case-search").addEventListener("input", () => caseTable.draw());
  for (const id of ["case-status", "case-a", "case-b"]) {
    document.getElementById(id).addEventListener("change", () => {
      if (id !== "case-status") {
        caseTable.sortBy = { valueOf: (place) => caseTable._difference(place), descending: false };
        caseTable._markSorted(3, "ascending");
      }
      caseTable.draw();
    });
  }
}
