"use strict";
// Tables whose headings sort them: by mouse, or by Enter and space.

/** The value that a cell is sorted by: `data-sort`, else the number that its text begins with, else the text. */
function sortValue(cell) {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  if (text === "" || text === "–") return null;
  const number = Number.parseFloat(text.replace("−", "-").replace(/^[<>≥] ?/, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compareValues(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

/** Sort rows in place by a function of them; what has no value comes last, whatever the direction. */
function sortRows(rows, valueOf, descending) {
  const keyed = rows.map((row, place) => ({ row, place, value: valueOf(row) }));
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
    return (descending ? -1 : 1) * compareValues(a.value, b.value) || a.place - b.place;
  });
  return keyed.map((one) => one.row);
}

/** Make a heading sort: calls `sort(descending)` and says the direction to screen readers. */
function sorting(heading, first, sort) {
  heading.tabIndex = 0;
  heading.classList.add("sorts");
  const turn = () => {
    const descending = heading.ariaSort ? heading.ariaSort === "ascending" : first === "descending";
    for (const other of heading.parentElement.children) other.ariaSort = null;
    heading.ariaSort = descending ? "descending" : "ascending";
    sort(descending);
  };
  heading.addEventListener("click", turn);
  heading.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(); }
  });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (heading.classList.contains("plain")) return;
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    sorting(heading, first, (descending) => {
      body.append(...sortRows([...body.rows], (row) => sortValue(row.cells[column]), descending));
    });
  });
}
