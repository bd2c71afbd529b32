"use strict";
// What all scripts of the page share: the data, how a method looks, small helpers.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 8, FLOORS = 3; // --c0 … --c7 and --f0 … --f2 in report.css
const DASHES = ["", "6 3", "2 2", "8 3 2 3", "12 3"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "cross", "star", "wye"];
const OTHER = { colour: "var(--f0)", dash: "", symbol: "circle" };
const UNTRAINED = " (untrained)";

/** Method → colour (a CSS value), dash and symbol; floors are grey (bright on a scan), an untrained method looks like itself trained. */
const looks = (() => {
  const found = new Map();
  let place = 0, floors = 0;
  for (const { name, floor, untrained } of data.methods) {
    if (untrained) continue;
    const number = floor ? floors++ : place++;
    const round = floor ? Math.floor(number / FLOORS) + 1 : Math.floor(number / COLOURS);
    found.set(name, {
      colour: floor ? `var(--f${number % FLOORS})` : `var(--c${number % COLOURS})`,
      dash: DASHES[round % DASHES.length],
      symbol: SYMBOLS[number % SYMBOLS.length],
    });
  }
  for (const { name, untrained } of data.methods) {
    const trained = found.get(name.replace(UNTRAINED, "")) ?? OTHER;
    if (untrained) found.set(name, { ...trained, dash: "1 3" });
  }
  return found;
})();

function lookOf(method) {
  return looks.get(method) ?? OTHER;
}

/** An element with attributes (`on…` are listeners) and children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function swatch(method) {
  const made = element("span", { class: "swatch", "data-method": method });
  paintSwatch(made);
  return made;
}

function paintSwatch(span) {
  const { colour, dash } = lookOf(span.dataset.method);
  span.style.borderColor = colour;
  span.style.borderStyle = dash === "" ? "solid" : dash === "1 3" ? "dotted" : "dashed";
}

function figure(value, digits = 3) {
  return value == null || Number.isNaN(value) ? "–" : value.toFixed(digits);
}

/** The values of a list's cases after the last step: the Dice of a method. */
function lastDice(list, method) {
  return list.dice[method].map((steps) => steps[steps.length - 1]);
}

/** Keeps a setting of the reader; where the browser forbids it, for this visit only. */
const settings = {
  get(name) {
    try { return localStorage.getItem(`tags-bench-${name}`); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`tags-bench-${name}`, value); } catch { /* a page inside another one may keep nothing */ }
  },
};
