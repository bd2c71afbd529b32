"use strict";
// Which part of the page is shown: the address after # says it, so that every view can be linked, and Back goes back.

const panels = [...document.querySelectorAll(".panel")];
let shown = null;

function showPanel(id) {
  const every = document.getElementById("every").checked;
  shown = id;
  for (const panel of panels) {
    panel.hidden = !every && panel.id !== id;
    if (!panel.hidden) drawCharts(panel);
  }
  document.getElementById("which").value = id;
  caseTable.show(Number(document.getElementById(id).dataset.first));
}

/** Follow the address: #given-2, #list-3, #list-3/method-1, #list-3/case-17, or a part of the page. */
function follow() {
  const [id, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  const [kind, place] = (rest[0] ?? "").split("-");
  if (kind !== "case") viewer.close();
  if (!id) showPanel(panels[0].id);  // Back, to the page as it opened
  if (!panels.some((panel) => panel.id === id)) return;
  if (shown !== id) showPanel(id);
  if (kind === "method") {
    caseTable.show(Number(id.slice(5)), data.lists[Number(id.slice(5))].methods[Number(place)]);
    document.getElementById("cases").scrollIntoView();
  } else if (kind === "case") {
    viewer.open(Number(id.slice(5)), Number(place));
  } else {
    document.getElementById("lists").scrollIntoView();
  }
}

function turnTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  settings.set("theme", root.dataset.theme);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (viewer.isOpen() && viewer.onKey(event.key)) { event.preventDefault(); return; }
  if (event.key === "t") turnTheme();
  if (event.key === "?") document.getElementById("keys").showModal();
}

function start() {
  const theme = settings.get("theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  document.querySelectorAll(".swatch").forEach(paintSwatch);
  document.querySelectorAll(".span[data-method]").forEach((bar) => { bar.style.fill = lookOf(bar.dataset.method).colour; });
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.getElementById("theme").addEventListener("click", turnTheme);
  document.getElementById("help").addEventListener("click", () => document.getElementById("keys").showModal());
  document.addEventListener("keydown", onKey);
  const robustness = document.querySelector("[data-charts=robustness]");
  if (robustness) drawRobustness(robustness);
  if (!panels.length) return;
  listenToCases();
  document.getElementById("which").addEventListener("change", (event) => { location.hash = event.target.value; });
  document.getElementById("every").addEventListener("change", () => showPanel(shown));
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  caseTable.show(0);
  showPanel(panels[0].id);
  if (location.hash) follow();
}

start();
