"use strict";
// The viewer: one case, its scan, the reference and every method's outline, prompt by prompt.

const PRESETS = [["soft tissue", -160, 240], ["liver", -30, 180], ["lung", -1350, 150], ["bone", -450, 1050], ["brain", 0, 80]];
const REFERENCE = "#ffffff";
const TRUTH = Symbol("reference"); // beside names of methods, of which one may be "reference"

/** The windows that the stored range of intensities can show. */
function windowsOf(packed, organ) {
  if (!packed.scan) return [];
  const [low, high] = packed.range, [a, b] = packed.window;
  const centre = (a + b) / 2, quarter = (b - a) / 4;
  const own = [[organ ? `target: ${organ}` : "target", a, b], ["narrow", centre - quarter, centre + quarter], ["all that is stored", low, high]];
  return packed.modality !== "CT" ? own : own.concat(PRESETS.filter(([, from, to]) => from >= low && to <= high));
}

const viewer = {
  dialog: document.getElementById("viewer"),
  picture: null,
  opening: 0, // counts, so that a case that loads slowly does not replace a later one

  isOpen() { return this.dialog.open; },

  close() { if (this.dialog.open) this.dialog.close(); },

  async open(number, place) {
    const list = data.lists[number];
    const same = this.list === list;
    Object.assign(this, { list, number, place, picture: null, error: "" });
    if (!same) {
      this.hidden = new Set();
      this.focus = list.methods[0];
      this.difference = false;
    }
    this.step = list.steps[list.steps.length - 1];
    if (!this.built) this._build();
    if (!this.dialog.open) this.dialog.showModal();
    this._panel();
    const opening = ++this.opening;
    const found = list.pictures[place];
    try {
      if (found === null) throw new Error("no picture of this case: the run kept no masks, or did not note where the case lies");
      const picture = await Picture.load(found);
      if (opening !== this.opening) return;
      this.picture = picture;
      this.windows = windowsOf(picture.packed, data.organs[`${list.key[0]}/${list.key[1]}`]);
      this.window = Math.min(this.window ?? 0, Math.max(0, this.windows.length - 1));
      this.at = {};
      for (const plane of Object.keys(PLANES)) this.at[plane] = picture.fullest(picture.reference, plane);
    } catch (error) {
      if (opening !== this.opening) return;
      this.error = error.message;
    }
    this._panel();
    this.draw();
  },

  _build() {
    this.built = true;
    this.plane = "axial";
    this.canvases = {};
    this.stage = element("div", { class: "stage" });
    for (const plane of Object.keys(PLANES)) {
      const canvas = element("canvas", { "data-plane": plane, role: "img", "aria-label": `${plane} slice`, onclick: () => this.turnTo(plane) });
      canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.move(plane, event.deltaY > 0 ? -1 : 1); }, { passive: false });
      this.canvases[plane] = canvas;
      this.stage.append(canvas);
    }
    this.message = element("p", { class: "message" });
    this.legend = element("div", { class: "legend" });
    this.stage.append(this.message, this.legend);
    this.side = element("div", { class: "side" });
    this.dialog.replaceChildren(this.stage, this.side);
    this.dialog.addEventListener("close", () => { if (/\/case-/.test(location.hash)) location.hash = `#list-${this.number}/cases`; });
    new ResizeObserver(() => this.draw()).observe(this.stage);
  },

  turnTo(plane) { this.plane = plane; this.draw(); },

  move(plane, by) {
    if (!this.picture) return;
    const last = this.picture.shape[PLANES[plane].through] - 1;
    this.at[plane] = Math.max(0, Math.min(last, this.at[plane] + by));
    this.draw();
  },

  goTo(by) {
    const order = caseTable.order;
    const next = order[order.indexOf(this.place) + by];
    if (next !== undefined) location.hash = `#list-${this.number}/case-${next}`;
  },

  setStep(step) {
    this.step = Math.max(this.list.steps[0], Math.min(this.list.steps[this.list.steps.length - 1], step));
    this._panel();
    this.draw();
  },

  toggle(method) {
    if (this.hidden.has(method)) this.hidden.delete(method); else this.hidden.add(method);
    this._panel();
    this.draw();
  },

  onKey(key) {
    const methods = this.list.methods;
    const acts = {
      n: () => this.goTo(1), p: () => this.goTo(-1),
      ArrowUp: () => this.move(this.plane, 1), ArrowDown: () => this.move(this.plane, -1),
      ArrowRight: () => this.setStep(this.step + 1), ArrowLeft: () => this.setStep(this.step - 1),
      0: () => { this.hidden = this.hidden.size ? new Set() : new Set(methods); this._panel(); this.draw(); },
      r: () => this.toggle(TRUTH),
      d: () => { this.difference = !this.difference; this._panel(); this.draw(); },
      w: () => { this.window = (this.window + 1) % Math.max(1, this.windows?.length ?? 1); this._panel(); this.draw(); },
      v: () => { const names = Object.keys(PLANES); this.turnTo(names[(names.indexOf(this.plane) + 1) % names.length]); },
    };
    if (/^[1-9]$/.test(key) && methods[key - 1]) this.toggle(methods[key - 1]);
    else if (acts[key]) acts[key]();
    else return false;
    return true;
  },

  // -- the panel beside the picture --

  _panel() {
    const { list, place } = this;
    const order = caseTable.order, at = order.indexOf(place);
    const go = (by, text, title) => element("button", { type: "button", title, onclick: () => this.goTo(by), disabled: order[at + by] === undefined }, text);
    const facts = [list.diameter[place] === null ? null : `diameter ${figure(list.diameter[place], 1)} mm`,
      list.lesions.length ? `${list.lesions[place]} lesion${list.lesions[place] === 1 ? "" : "s"}` : null,
      list.patients[place] === list.cases[place] ? null : `patient ${list.patients[place]}`].filter(Boolean).join(" · ");
    this.side.replaceChildren(
      element("div", { class: "turns" }, go(-1, "‹", "previous case (p)"), element("span", {}, at < 0 ? "–" : `${at + 1} of ${order.length}`), go(1, "›", "next case (n)"),
        element("button", { type: "button", class: "end", title: "back (Esc)", onclick: () => this.close() }, "close")),
      element("h2", {}, list.cases[place]),
      element("p", { class: "note" }, `${list.title}${facts ? ` · ${facts}` : ""}`),
      ...(list.steps.length > 1 ? [this._steps()] : []),
      this._methods(),
      this._choices(),
      ...this._notes());
  },

  _steps() {
    const { steps } = this.list;
    return element("label", { class: "steps" }, `prompt ${this.step} of ${steps[steps.length - 1]}`,
      element("input", { type: "range", min: steps[0], max: steps[steps.length - 1], value: this.step, oninput: (event) => this._stepTo(Number(event.target.value)) }));
  },

  _stepTo(step) { // the slider itself stays, so that it can be dragged on
    this.step = step;
    this.side.querySelector(".steps").firstChild.textContent = `prompt ${step} of ${this.list.steps[this.list.steps.length - 1]}`;
    this.side.querySelector(".methods").replaceWith(this._methods());
    this.draw();
  },

  _methods() {
    const { list, place } = this;
    const rows = list.methods.map((method, number) => {
      const status = list.status[method][place], value = list.dice[method][place][list.steps.indexOf(this.step)];
      const text = status === "f" && !value ? "failed" : status === "n" ? "no target" : figure(value);
      return this._row(method, number < 9 ? String(number + 1) : "", text, () => { this.focus = method; this._panel(); this.draw(); });
    });
    return element("table", { class: "methods" },
      element("thead", {}, element("tr", {}, element("th", {}, ""), element("th", {}, "outline of"), element("th", { class: "number" }, "Dice"))),
      element("tbody", {}, this._row(TRUTH, "r", "", null), ...rows));
  },

  _row(name, key, text, onFocus) {
    const label = name === TRUTH ? "the reference" : name;
    const drawn = element("input", { type: "checkbox", checked: !this.hidden.has(name), "aria-label": `outline of ${label}`, onchange: () => this.toggle(name) });
    const mark = name === TRUTH ? element("span", { class: "swatch reference" }) : swatch(name);
    const title = onFocus ? element("button", { type: "button", class: "name", title: "show its prompts", onclick: onFocus }, name) : element("span", { class: "name" }, "reference");
    return element("tr", { class: name === this.focus ? "focus" : "" }, element("td", {}, drawn), element("td", {}, mark, title, element("kbd", {}, key)), element("td", { class: "number" }, text));
  },

  _choices() {
    const pair = caseTable.pair();
    const choose = (id, chosen) => element("select", { "aria-label": "method", onchange: (event) => { document.getElementById(id).value = event.target.value; document.getElementById(id).dispatchEvent(new Event("change")); this.draw(); } },
      ...this.list.methods.map((name) => element("option", { value: name, selected: name === chosen }, name)));
    const windows = (this.windows ?? []).map(([name, low, high], number) => element("option", { value: number, selected: number === this.window }, `${name} (${Math.round(low)} to ${Math.round(high)})`));
    return element("div", { class: "choices" },
      windows.length ? element("label", {}, "window ", element("select", { onchange: (event) => { this.window = Number(event.target.value); this.draw(); } }, ...windows)) : null,
      element("label", {}, element("input", { type: "checkbox", checked: this.difference, onchange: (event) => { this.difference = event.target.checked; this.draw(); } }), " difference of ", choose("case-a", pair[0]), " and ", choose("case-b", pair[1])));
  },

  _notes() {
    const { list, place } = this;
    const reasons = list.methods.filter((method) => list.reasons[method][place]).map((method) => `${method} failed: ${list.reasons[method][place]}`);
    const notes = [...reasons, ...(this.picture?.packed.notes ?? [])];
    if (this.picture) {
      const factor = Math.max(...this.picture.packed.reduction);
      for (const method of list.methods) {
        const layer = this.picture.layer(list.key[3], method, this.step);
        if (layer?.outside) notes.push(`${method}: ${layer.outside} voxels of its mask lie outside the picture`);
      }
      notes.push(`A crop around the target${factor > 1 ? `, reduced ${this.picture.packed.reduction.join(" × ")}` : ""}, ${this.picture.spacing.map((mm) => mm.toFixed(2)).join(" × ")} mm; 8 bits, for looking only. Radiological: the patient's right (R) is on the left.`);
    }
    return notes.map((note) => element("p", { class: "note" }, note));
  },

  // -- the picture --

  draw() {
    if (!this.dialog.open) return;
    this.message.textContent = this.error;
    this.legend.replaceChildren(...(this.difference && this.picture ? this._legend() : []));
    for (const [plane, canvas] of Object.entries(this.canvases)) {
      canvas.hidden = !this.picture;
      canvas.classList.toggle("main", plane === this.plane);
      if (this.picture) this._drawPlane(canvas, plane);
    }
  },

  _legend() {
    const [a, b] = caseTable.pair();
    const entry = (colour, text) => element("span", {}, element("i", { style: `background:${colour}` }), text);
    return [entry(this._colour(a), `only ${a} is right`), entry(this._colour(b), `only ${b} is right`), entry("repeating-linear-gradient(45deg,#fff 0 2px,#0000 2px 5px)", "both are wrong")];
  },

  /** The colour of a method as the dark viewer has it. */
  _colour(method) {
    const probe = element("i", { style: `color:${lookOf(method).colour}` });
    this.side.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  },

  _drawPlane(canvas, name) {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = canvas;
    if (!clientWidth || !clientHeight) return;
    canvas.width = clientWidth * ratio;
    canvas.height = clientHeight * ratio;
    const slice = this.at[name];
    const plane = this.picture.plane(name, slice);
    const scale = Math.min(canvas.width / (plane.width * plane.mmAcross), canvas.height / (plane.height * plane.mmDown));
    const sx = scale * plane.mmAcross, sy = scale * plane.mmDown;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, (canvas.width - plane.width * sx) / 2, (canvas.height - plane.height * sy) / 2);
    const view = { context, plane, name, slice, sx, sy, ratio };
    this._drawScan(view);
    if (this.difference) this._drawDifference(view);
    this._drawOutlines(view);
    this._drawPrompts(view);
    this._drawSides(view, canvas);
  },

  /** Fills a picture of the plane, voxel by voxel; `paint(voxel, at)` writes four bytes. */
  _raster({ context, plane, sx, sy }, smooth, paint) {
    const small = element("canvas", { width: plane.width, height: plane.height });
    const image = new ImageData(plane.width, plane.height);
    for (let j = 0, at = 0; j < plane.height; j++) for (let i = 0; i < plane.width; i++, at += 4) paint(image.data, plane.voxel(i, j), at, i, j);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.drawImage(small, 0, 0, plane.width * sx, plane.height * sy);
  },

  _drawScan(view) {
    const { scan, packed } = this.picture;
    if (!scan) {
      view.context.fillStyle = "#1b1e22";
      view.context.fillRect(0, 0, view.plane.width * view.sx, view.plane.height * view.sy);
      return;
    }
    const [, low, high] = this.windows[this.window];
    const [from, to] = packed.range, step = (to - from) / 255;
    const grey = Uint8ClampedArray.from({ length: 256 }, (_, value) => (255 * (from + value * step - low)) / (high - low));
    this._raster(view, true, (pixels, voxel, at) => {
      pixels[at] = pixels[at + 1] = pixels[at + 2] = grey[scan[voxel]];
      pixels[at + 3] = 255;
    });
  },

  _bits(method) {
    return this.picture.layer(this.list.key[3], method, this.step)?.bits ?? null;
  },

  _drawDifference(view) {
    const [a, b] = caseTable.pair(), bitsA = this._bits(a), bitsB = this._bits(b), truth = this.picture.reference;
    if (!bitsA || !bitsB) return;
    const colours = [a, b].map((method) => this._colour(method).match(/[\d.]+/g).slice(0, 3).map(Number));
    this._raster(view, false, (pixels, voxel, at, i, j) => {
      const right = [isIn(bitsA, voxel) === isIn(truth, voxel), isIn(bitsB, voxel) === isIn(truth, voxel)];
      if (right[0] && right[1]) return;
      const bothWrong = !right[0] && !right[1];
      const colour = bothWrong ? [255, 255, 255] : colours[right[0] ? 0 : 1];
      pixels.set([...colour, bothWrong ? ((i + j) % 2 ? 150 : 0) : 135], at);
    });
  },

  _drawOutlines(view) {
    const draw = (bits, colour, dash, width) => {
      const { context, plane, sx, sy, ratio } = view;
      const shape = d3.contours().size([plane.width, plane.height]).contour(this.picture.slice(bits, view.name, view.slice), 0.5);
      context.beginPath();
      for (const ring of shape.coordinates.flat()) {
        ring.forEach(([x, y], i) => (i ? context.lineTo(x * sx, y * sy) : context.moveTo(x * sx, y * sy)));
        context.closePath();
      }
      context.lineWidth = (width + 1.6) * ratio;
      context.strokeStyle = "#0009"; // a shadow, so that a line is seen on bright tissue too
      context.stroke();
      context.lineWidth = width * ratio;
      context.setLineDash(dash ? dash.split(" ").map((part) => Number(part) * ratio) : []);
      context.strokeStyle = colour;
      context.stroke();
      context.setLineDash([]);
    };
    if (!this.hidden.has(TRUTH)) {
      draw(this.picture.reference, REFERENCE, "", 2.5);
    }
    const shown = this.difference ? caseTable.pair() : this.list.methods;
    for (const method of shown) {
      const bits = this.hidden.has(method) ? null : this._bits(method);
      if (bits) draw(bits, this._colour(method), lookOf(method).dash, method === this.focus ? 2.8 : 1.8);
    }
  },

  _drawPrompts(view) {
    const { context, plane, name, slice, sx, sy, ratio } = view;
    const layer = this.picture.layer(this.list.key[3], this.focus, this.step);
    const { across, down, through } = PLANES[name];
    const place = (point) => [(plane.width - point[across] - 0.5) * sx, (plane.height - point[down] - 0.5) * sy];
    if (layer?.box) {
      const [low, high] = layer.box;
      if (slice + 0.5 >= low[through] && slice - 0.5 <= high[through]) {
        const [x1, y1] = place(low), [x2, y2] = place(high);
        context.strokeStyle = "#ffe066";
        context.lineWidth = 1.5 * ratio;
        context.strokeRect(Math.min(x1, x2), Math.min(y1, y2), Math.abs(x1 - x2), Math.abs(y1 - y2));
      }
    }
    (layer?.clicks ?? []).forEach((click, number) => {
      const away = Math.abs(click[through] - slice);
      const near = away < 0.75;
      const [x, y] = place(click), radius = (near ? 6 : 3) * ratio;
      context.globalAlpha = near ? 1 : Math.max(0.15, 0.5 - away / 20);
      context.lineWidth = 1.5 * ratio;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fillStyle = click[3] ? "#ffe066" : "#12161a";
      context.strokeStyle = click[3] ? "#12161a" : "#ffe066";
      context.fill();
      context.stroke();
      if (near) {
        context.fillStyle = click[3] ? "#12161a" : "#ffe066";
        context.font = `bold ${10 * ratio}px system-ui, sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(click[3] ? "+" : "−", x, y);
        context.fillStyle = "#ffe066";
        context.shadowColor = "#000";
        context.shadowBlur = 4 * ratio;
        context.fillText(String(number + 1), x + 11 * ratio, y - 8 * ratio);
        context.shadowBlur = 0;
      }
      context.globalAlpha = 1;
    });
  },

  _drawSides({ context, name, slice, ratio }, canvas) {
    const [left, right, top, bottom] = PLANES[name].sides;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#c9d1d9";
    context.font = `bold ${12 * ratio}px system-ui, sans-serif`;
    const middle = [canvas.width / 2, canvas.height / 2], edge = 10 * ratio;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.strokeStyle = "#000"; // so that they are read on bright tissue
    context.lineWidth = 4 * ratio;
    context.lineJoin = "round";
    const write = (text, x, y) => { context.strokeText(text, x, y); context.fillText(text, x, y); };
    write(left, edge, middle[1]);
    write(right, canvas.width - edge, middle[1]);
    write(top, middle[0], edge);
    write(bottom, middle[0], canvas.height - edge);
    context.textAlign = "left";
    write(`${name} ${slice + 1}/${this.picture.shape[PLANES[name].through]}`, edge / 2, canvas.height - edge);
  },
};
