"use strict";
// The charts of a leaderboard, drawn when it is first shown. Numbers come from the tables of the bench; a chart that has
// nothing to show is left out.

const CHART_WIDTH = 560;
const MOST_DOTS = 4000; // beyond, the boxes stand alone: so many anchors make a page slow

const textOf = (method) => (method.length > 26 ? `${method.slice(0, 25)}…` : method);

function plot(options) {
  return Plot.plot({
    width: CHART_WIDTH,
    style: { background: "none", fontSize: "12px", fontFamily: "inherit", overflow: "visible" },
    ...options,
  });
}

const stroke = (name) => (row) => lookOf(row[name]).colour;
const dice = { label: "Dice", domain: [0, 1], grid: true };

/** The names of methods on the left of a chart. */
function methodAxis(methods) {
  return { domain: methods, label: null, tickFormat: textOf };
}

function leftOf(methods) {
  return Math.min(200, 16 + 6.6 * Math.max(...methods.map((name) => textOf(name).length)));
}

function spreadChart(list, number) {
  const rows = list.methods.flatMap((method) =>
    lastDice(list, method).map((value, place) => ({ method, value, place, status: list.status[method][place] })))
    .filter((row) => row.value !== null);
  if (!rows.length) return null;
  const marks = [
    Plot.ruleX([0]),
    Plot.boxX(rows, { x: "value", y: "method", stroke: stroke("method"), fill: stroke("method"), fillOpacity: 0.2, r: 0 }),
  ];
  if (rows.length <= MOST_DOTS) {
    marks.push(Plot.dot(rows, {
      x: "value", y: "method", r: 2.6, fill: stroke("method"), fillOpacity: 0.65,
      href: (row) => `#list-${number}/case-${row.place}`,
      title: (row) => `${row.method}\n${list.cases[row.place]}: ${figure(row.value)}${row.status === "f" ? " (failed)" : ""}`,
    }));
  }
  return plot({
    height: 56 + 30 * list.methods.length, marginLeft: leftOf(list.methods), marginBottom: 40, x: dice, y: methodAxis(list.methods), marks,
  });
}

function roundsChart(list) {
  const rows = list.drawn.rounds ?? [];
  if (!rows.length) return null;
  const last = Math.max(...rows.map((row) => row.step));
  const ends = spreadLabels(rows.filter((row) => row.step === last));
  return plot({
    height: 300, marginRight: 170, marginBottom: 36,
    x: { label: "prompts given", ticks: [...new Set(rows.map((row) => row.step))], tickFormat: "d" },
    y: dice,
    marks: [
      Plot.areaY(rows, { x: "step", y1: "low", y2: "high", z: "method", fill: stroke("method"), fillOpacity: 0.12 }),
      ...list.methods.map((method) => Plot.line(rows.filter((row) => row.method === method), {
        x: "step", y: "mean", stroke: lookOf(method).colour, strokeWidth: 2, strokeDasharray: lookOf(method).dash,
      })),
      Plot.dot(rows, {
        x: "step", y: "mean", fill: stroke("method"), symbol: { value: (row) => lookOf(row.method).symbol }, r: 3.5,
        title: (row) => `${row.method}, prompt ${row.step}\n${figure(row.mean)} [${figure(row.low)}, ${figure(row.high)}]`,
      }),
      Plot.text(ends, { x: "step", y: "at", text: (row) => textOf(row.method), textAnchor: "start", dx: 8, fill: stroke("method") }),
    ],
  });
}

/** Labels at the ends of lines, moved apart so that none covers another. */
function spreadLabels(rows, gap = 0.055) {
  const sorted = rows.map((row) => ({ ...row, at: row.mean })).sort((a, b) => a.at - b.at);
  for (let i = 1; i < sorted.length; i++) sorted[i].at = Math.max(sorted[i].at, sorted[i - 1].at + gap);
  const over = sorted.length ? sorted[sorted.length - 1].at - 1 : 0;
  if (over > 0) for (const row of sorted) row.at -= over;
  return sorted;
}

/** Ranks for an axis: 1 to `last`, at most ten of them. */
function wholeNumbers(last) {
  return d3.range(1, last + 1, Math.ceil(last / 10));
}

function criticalChart(list) {
  const rows = (list.drawn.rankings ?? []).filter((row) => row.mean_case_rank !== null && row["mean-then-rank"] !== null);
  if (rows.length < 2) return null;
  const sorted = [...rows].sort((a, b) => a.mean_case_rank - b.mean_case_rank);
  const at = new Map(sorted.map((row) => [row.method, row.mean_case_rank]));
  const bars = list.drawn.runs.map(([first, last], level) => ({ x1: at.get(first), x2: at.get(last), y: -0.7 - 0.45 * level }));
  const half = Math.ceil(sorted.length / 2);
  const placed = sorted.map((row, place) => ({ ...row, left: place < half, y: place < half ? place + 1 : sorted.length - place }));
  const ends = [1, rows.length];
  const lowest = -1 - 0.45 * bars.length;
  return plot({
    height: 60 + 22 * half + 10 * bars.length, marginLeft: 170, marginRight: 170, marginTop: 30,
    x: { domain: ends, axis: "top", label: null, ticks: wholeNumbers(rows.length), tickFormat: "d" },
    y: { axis: null, domain: [half + 0.6, lowest] },
    marks: [
      Plot.ruleY([lowest], { x1: ends[0], x2: ends[1] }),
      Plot.link(bars, { x1: "x1", x2: "x2", y1: "y", y2: "y", strokeWidth: 4, strokeLinecap: "round" }),
      Plot.link(placed, { x1: "mean_case_rank", x2: "mean_case_rank", y1: lowest, y2: "y", stroke: stroke("method") }),
      Plot.link(placed, { x1: "mean_case_rank", x2: (row) => (row.left ? ends[0] : ends[1]), y1: "y", y2: "y", stroke: stroke("method") }),
      ...[true, false].map((left) => Plot.text(placed.filter((row) => row.left === left), {
        x: left ? ends[0] : ends[1], y: "y", text: (row) => `${textOf(row.method)}  ${row.mean_case_rank.toFixed(2)}`,
        textAnchor: left ? "end" : "start", dx: left ? -6 : 6,
      })),
    ],
  });
}

function stabilityChart(list) {
  const rows = (list.drawn.rankings ?? []).filter((row) => row["mean-then-rank"] !== null);
  if (rows.length < 2) return null;
  const dots = rows.flatMap((row) => Object.keys(row).filter((key) => key.startsWith("share_of_rank_") && row[key])
    .map((key) => ({ method: row.method, rank: Number(key.slice(14)), share: row[key] })));
  const methods = rows.map((row) => row.method);
  return plot({
    height: 56 + 30 * methods.length, marginLeft: leftOf(methods), marginBottom: 40,
    x: { label: `rank (Kendall's τ ${figure(rows[0].kendall_tau, 2)})`, domain: [0.5, methods.length + 0.5], ticks: wholeNumbers(methods.length), tickFormat: "d", grid: true },
    y: methodAxis(methods), r: { domain: [0, 1], range: [0, 13] },
    marks: [
      Plot.dot(dots, { x: "rank", y: "method", r: "share", fill: stroke("method"), fillOpacity: 0.75,
        title: (dot) => `${dot.method}\nrank ${dot.rank} in ${(100 * dot.share).toFixed(0)} % of the draws` }),
      Plot.text(dots.filter((dot) => dot.share >= 0.3), { x: "rank", y: "method", text: (dot) => (100 * dot.share).toFixed(0), fill: "var(--paper)", fontSize: 9 }),
    ],
  });
}

/** Where names stand beside points so that none covers another: each point with `at`, the y of its name. */
function namesApart(points, x, y, letter = 6.6, line = 14) {
  const placed = [];
  for (const point of [...points].sort((a, b) => a.dice - b.dice)) {
    const width = letter * textOf(point.method).length;
    const left = x(point.cost) - width / 2;
    let top = y(point.dice) - 11;
    for (const other of placed) {
      if (left < other.right && other.left < left + width && Math.abs(top - other.top) < line) top = other.top - line;
    }
    placed.push({ ...point, left, right: left + width, top, at: y.invert(top) });
  }
  return placed;
}

/** Mean Dice of a list against a cost of its leaderboard rows, on a logarithmic axis. */
function costChart(list, column, label, scale = 1) {
  const rows = data.leaderboard.filter((row) => data.lists.indexOf(list) === listOfRow(row) && row[column] > 0 && row.dice !== null)
    .map((row) => ({ ...row, cost: row[column] / scale }));
  if (rows.length < 2) return null;
  const front = [];
  for (const row of [...rows].sort((a, b) => a.cost - b.cost || b.dice - a.dice)) {
    if (!front.length || row.dice > front[front.length - 1].dice) front.push(row);
  }
  const sides = { marginLeft: 40, marginRight: 40, marginTop: 20, marginBottom: 40 };
  const height = 320, [least, most] = d3.extent(rows, (row) => row.cost);
  const across = [least / 2, most * 2.5], up = [0, Math.min(1, 0.1 + Math.max(...rows.map((row) => row.dice_high ?? row.dice)))];
  const x = d3.scaleLog(across, [sides.marginLeft, CHART_WIDTH - sides.marginRight]);
  const y = d3.scaleLinear(up, [height - sides.marginBottom, sides.marginTop]);
  return plot({
    height, ...sides, x: { type: "log", domain: across, label, grid: true, tickFormat: "~g", ticks: 5 }, y: { ...dice, domain: up },
    marks: [
      Plot.line(front, { x: "cost", y: "dice", stroke: "currentColor", strokeOpacity: 0.45, strokeDasharray: "4 3", curve: "step-after" }),
      Plot.ruleX(rows, { x: "cost", y1: "dice_low", y2: "dice_high", stroke: stroke("method"), strokeOpacity: 0.5 }),
      Plot.dot(rows, { x: "cost", y: "dice", fill: stroke("method"), r: 5, symbol: { value: (row) => lookOf(row.method).symbol },
        title: (row) => `${row.method}\nDice ${figure(row.dice)}\n${label} ${row.cost.toPrecision(3)}` }),
      Plot.text(namesApart(rows, x, y), { x: "cost", y: "at", text: (row) => textOf(row.method), fill: stroke("method") }),
    ],
  });
}

function listOfRow(row) {
  const key = JSON.stringify([row.dataset, row.target, row.track, row.protocol, row.differs]);
  return data.lists.findIndex((list) => JSON.stringify(list.key) === key);
}

function sizesChart(list) {
  const rows = (list.drawn.sizes ?? []).filter((row) => row.mean !== null);
  const groups = [...new Set(rows.map((row) => row.group))].sort((a, b) => sizeOrder(a) - sizeOrder(b));
  if (groups.length < 2) return null;
  const names = new Map(groups.map((group) => [group, `${group}, n=${Math.max(...rows.filter((row) => row.group === group).map((row) => row.n))}`]));
  const drawn = rows.map((row) => ({ ...row, label: names.get(row.group) }));
  return plot({
    height: 300, marginBottom: 30, y: dice, x: { axis: null, domain: list.methods, padding: 0.4 },
    fx: { domain: [...names.values()], label: null, axis: "bottom" },
    marks: [
      Plot.frame({ strokeOpacity: 0.15 }),
      Plot.ruleX(drawn, { x: "method", fx: "label", y1: "low", y2: "high", stroke: stroke("method"), strokeWidth: 2, strokeOpacity: 0.6 }),
      Plot.dot(drawn, { x: "method", fx: "label", y: "mean", fill: stroke("method"), r: 4, symbol: { value: (row) => lookOf(row.method).symbol },
        title: (row) => `${row.method}, ${row.group}\n${figure(row.mean)} [${figure(row.low)}, ${figure(row.high)}], n=${row.n}` }),
    ],
  });
}

function sizeOrder(group) {
  const number = Number.parseFloat(group.replace(/^[<>]=? ?/, ""));
  return Number.isNaN(number) ? Infinity : group.startsWith("<") ? -1 : number;
}

/** The pooled table of a track, a protocol and what differs; `given` is JSON, which can be written in more than one way. */
function pooledChart(given) {
  const key = JSON.parse(given);
  const rows = data.overall.filter((row) => [row.track, row.protocol, row.differs].every((part, i) => part === key[i]) && row.dice !== null);
  if (!rows.length) return null;
  const methods = rows.map((row) => row.method);
  const single = rows.flatMap((row) => Object.keys(row).filter((name) => name.startsWith("dice/") && row[name] !== null)
    .map((name) => ({ method: row.method, value: row[name], where: name.slice(5) })));
  return plot({
    height: 56 + 30 * methods.length, marginLeft: leftOf(methods), marginBottom: 40, x: dice, y: methodAxis(methods),
    marks: [
      Plot.tickX(single, { x: "value", y: "method", stroke: stroke("method"), strokeOpacity: 0.6, inset: 9, title: (row) => `${row.method} on ${row.where}\n${figure(row.value)}` }),
      Plot.ruleY(rows, { y: "method", x1: "low", x2: "high", stroke: stroke("method"), strokeWidth: 3 }),
      Plot.dot(rows, { x: "dice", y: "method", r: 5, fill: stroke("method"), title: (row) => `${row.method}\n${figure(row.dice)} [${figure(row.low)}, ${figure(row.high)}]` }),
    ],
  });
}

const CHARTS = {
  spread: spreadChart,
  rounds: roundsChart,
  critical: criticalChart,
  stability: stabilityChart,
  time: (list) => costChart(list, "seconds_segment", "seconds a prompt"),
  energy: (list) => costChart(list, "joules", "joules a case"),
  memory: (list) => costChart(list, "peak_memory_mb", "GB", 1000),
  training: (list) => costChart(list, "train_minutes", "minutes of training"),
  sizes: sizesChart,
};

/** Draw the charts of a panel, once. */
function drawCharts(panel) {
  if (panel.dataset.drawn) return;
  panel.dataset.drawn = "yes";
  const number = Number(panel.dataset.list);
  for (const place of panel.querySelectorAll("[data-chart]")) {
    const pooled = place.dataset.chart === "pooled";
    const chart = pooled ? pooledChart(panel.dataset.given) : CHARTS[place.dataset.chart](data.lists[number], number);
    if (chart === null) place.remove();
    else place.append(chart);
  }
}

function drawRobustness(place) {
  const groups = d3.groups(data.robustness, (row) => [row.dataset, row.target, row.protocol, row.noise, row.differs].filter(Boolean).join(" · "));
  for (const [title, rows] of groups) {
    const last = Math.max(...rows.map((row) => row.level));
    const chart = plot({
      height: 280, marginRight: 170, marginBottom: 36, x: { label: rows[0].noise.replaceAll("_", " ") }, y: dice,
      marks: [
        Plot.areaY(rows, { x: "level", y1: "low", y2: "high", z: "method", fill: stroke("method"), fillOpacity: 0.12 }),
        Plot.line(rows, { x: "level", y: "mean", z: "method", stroke: stroke("method"), strokeWidth: 2 }),
        Plot.dot(rows, { x: "level", y: "mean", fill: stroke("method"), r: 3.5 }),
        Plot.text(spreadLabels(rows.filter((row) => row.level === last)), { x: "level", y: "at", text: (row) => textOf(row.method), textAnchor: "start", dx: 8, fill: stroke("method") }),
      ],
    });
    place.append(element("figure", { class: "chart" }, element("figcaption", {}, title), chart));
  }
}
