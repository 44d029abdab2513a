// The part of a widget that lives in the page: a picture that answers the pointer and the keys, its caption, its sounds.
// scene.js stands in front of this file. No library and no network. The kernel sends arrays and words; the page sends
// clicks, outlines, files, and what its buttons ask for. When it has nothing to do, it asks the kernel ahead for what the
// next values of a control would show, so that the control, moved there, answers at once, before the kernel does.

const make = (kind, name, parent) => {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (parent) parent.append(made);
  return made;
};

const PLAYER = ["play or pause", "stop", "repeat"];

// ipywidgets gives its sliders a visible label, but no accessible name, and the buttons of its player none at all.
function nameControls(root) {
  for (const player of root.querySelectorAll(".widget-play"))
    player.querySelectorAll("button").forEach((one, i) => one.setAttribute("aria-label", PLAYER[i]));
  for (const label of root.querySelectorAll(".widget-label")) {
    const name = label.textContent.trim();
    if (!name) continue;
    const handles = label.parentElement.querySelectorAll(".noUi-handle");
    handles.forEach((handle, i) => {
      handle.setAttribute("aria-label", handles.length > 1 ? `${name}, ${i ? "end" : "start"}` : name);
    });
    for (const one of label.parentElement.querySelectorAll("select, input, .widget-readout"))
      if (!one.hasAttribute("aria-label")) one.setAttribute("aria-label", name);
  }
}

// Jupyter's shortcuts leave the keys of a widget alone, but not those with Ctrl, and not Escape. Notebook 7 looks at a key
// before the widget does, so that this has to be earlier still. Gives what stops it.
function guardKeys(el) {
  const guard = ({ target, key, ctrlKey, metaKey }) => {
    if (el.closest(".unisat")?.contains(target))
      target.toggleAttribute("data-lm-suppress-shortcuts", !ctrlKey && !metaKey && key !== "Escape");
  };
  window.addEventListener("keydown", guard, true);
  return () => window.removeEventListener("keydown", guard, true);
}

// Call `found` with the widget's outermost element once `el` is in the page; gives what stops the watch.
function whenAttached(el, found) {
  let watch, frame;
  const look = () => {
    const root = el.closest(".unisat");
    if (!root) {
      frame = requestAnimationFrame(look);
      return;
    }
    found(root);
    watch = new MutationObserver(() => nameControls(root));
    watch.observe(root, { childList: true, subtree: true });
  };
  look();
  return () => {
    cancelAnimationFrame(frame);
    watch?.disconnect();
  };
}

const BUTTONS = [
  ["reset", "Reset", "put every control back to where it was"],
  ["code", "Copy code", "copy Python that makes this widget with the controls as they are"],
  ["png", "PNG", "save the picture as pixels"],
  ["svg", "SVG", "save the picture as a drawing"],
  ["csv", "Table", "save the numbers behind the picture"],
];

function themeOf(el) {
  const style = getComputedStyle(el);
  const ink = style.color.match(/[\d.]+/g).slice(0, 3).map((v) => Number(v).toString(16).padStart(2, "0"));
  return { ink: `#${ink.join("")}`, font: style.fontFamily || "sans-serif", accent: "#d55e00" };
}

function save(name, bytes, type) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// What a message of the kernel brings: arrays by their names.
function unpack({ names, kinds }, buffers) {
  const read = { u1: (bytes) => new Uint8Array(bytes), json: (bytes) => JSON.parse(new TextDecoder().decode(bytes)) };
  read.wav = (bytes) => new DataView(bytes);
  return names.map((name, i) => {
    const { buffer, byteOffset, byteLength } = buffers[i];
    return [name, (read[kinds[i]] ?? ((bytes) => new Float32Array(bytes)))(buffer.slice(byteOffset, byteOffset + byteLength))];
  });
}

// a slider's numbers have noise in their last digits
const text = (values) => JSON.stringify(values, (_, one) => (typeof one === "number" ? Number(one.toPrecision(9)) : one));

const WAIT = 250; // ms without a move before the page asks
const REACH = 16; // steps of a control that it asks for, each way
const MOST = { pictures: 64, bytes: 32e6 };

// Pictures of other values than the controls have, asked for in advance. The kernel's own answer always follows, and
// replaces what was shown; where it is another picture than was kept, something behind has changed, and all are forgotten.
class Ahead {
  constructor(model, el, show) {
    Object.assign(this, { model, el, show, kept: new Map(), controls: [] });
    this.sight = new IntersectionObserver((changes) => {
      this.seen = changes.at(-1).isIntersecting;
      this.wait();
    });
  }
  async begin(arrays) {
    this.arrays = arrays;
    const ids = this.model.get("controls").map((name) => name.replace("IPY_MODEL_", ""));
    const found = await Promise.all(ids.map(async (id) => this.model.widget_manager.get_model(id))).catch(() => []);
    if (this.closed) return;
    this.controls = found;
    found.forEach((one, i) => one.on("change:value change:index", (_, value, how) => this.moved(i, how), this));
    this.sight.observe(this.el);
    this.answered();
  }
  close() {
    this.closed = true;
    this.sight.disconnect();
    clearTimeout(this.timer);
    for (const one of this.controls) one.off(null, null, this);
  }
  // what is shown: a picture from before, or the kernel's
  get(name) {
    return this.now?.[name] ?? this.model.get(name);
  }
  state() {
    return this.controls.map((one) => {
      const value = one.get("index") ?? one.get("value");
      return value?.content ? [value.name, value.size] : value;
    });
  }
  moved(place, how) {
    this.wait();
    if (!how?.updated_view) return; // the kernel moved it, not the reader
    [this.last, this.asks] = [place, 0];
    const found = this.kept.get(text(this.state()));
    if (found) this.turn(found);
  }
  turn(now) {
    if (now === this.now) return;
    this.now = now;
    for (const [name, array] of now?.arrays ?? []) this.arrays.set(name, array);
    this.show();
  }
  // the kernel has shown a picture
  answered() {
    if (!this.controls.length || !this.model.get("ahead").length) return this.forget();
    const key = text(this.model.get("shown")[1]);
    const [scene, names, alt, extra, sounds] = ["scene", "names", "alt", "extra", "sounds"].map((one) => this.model.get(one));
    const came = { scene, names, alt, extra, sounds, arrays: new Map(names.map((name) => [name, this.arrays.get(name)])) };
    const had = this.kept.get(key);
    came.says = text([scene, alt, extra, sounds.map((one) => [one.label, one.name, one.start])]);
    if (had && had.says !== came.says) this.kept.clear();
    if (had?.says !== came.says && names.every((name) => this.arrays.has(name))) this.keep(key, came);
    const here = text(this.state());
    this.turn(here === key ? undefined : this.kept.get(here)); // a reader who has moved on is not taken back
    this.asks = 0;
    this.wait();
  }
  forget() {
    this.kept.clear();
    this.turn(undefined);
  }
  keep(key, picture) {
    this.kept.delete(key);
    this.kept.set(key, picture);
    while (this.kept.size > MOST.pictures || (this.kept.size > 1 && this.bytes() > MOST.bytes)) this.kept.delete(this.kept.keys().next().value);
  }
  bytes() {
    const all = [...this.kept.values()].flatMap((one) => (one ? [...one.arrays.values(), ...one.sounds.map(({ wav }) => wav)] : []));
    return [...new Set(all)].reduce((sum, one) => sum + (one?.byteLength ?? 0), 0);
  }

  // ---- asking ----

  wait() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.ask();
    }, WAIT);
  }
  ask() {
    const asleep = this.el.closest(".jupyter-widgets-disconnected") !== null;
    if (this.asking || !this.seen || asleep || this.model.get("alert") || document.hidden) return;
    const state = this.state();
    const slider = (one) => /^(Float|Int|Selection)Slider/.test(this.controls[one].get("_view_name"));
    const place = this.last ?? this.model.get("ahead").find(slider);
    if (!this.model.get("ahead").includes(place) || this.asks >= 2 * REACH) return;
    const next = around(this.controls[place]).map((one) => state.with(place, one)).find((one) => !this.kept.has(text(one)));
    if (!next) return;
    this.asking = text(next);
    this.asks++;
    this.model.send({ kind: "ahead", state: next });
  }
  told(content, buffers) {
    const key = text(content.asked);
    const picture = content.scene ? this.picture(content, new Map(unpack(content, buffers))) : null;
    if (this.model.get("ahead").length) for (const one of [key, text(content.state ?? content.asked)]) this.keep(one, picture);
    if (this.asking !== key) return; // another view of this widget asked
    this.asking = undefined;
    if (this.timer === undefined) this.ask();
  }
  picture({ scene, all, alt, extra, sounds }, came) {
    const says = text([scene, alt, extra, sounds.map((one) => [one.label, one.name, one.start])]);
    const kept = [...this.kept.values()].filter(Boolean);
    const heard = [...this.model.get("sounds"), ...kept.flatMap((one) => one.sounds)];
    const find = (name) => kept.find((one) => one.arrays.has(name))?.arrays.get(name) ?? this.arrays.get(name) ?? came.get(name);
    const found = sounds.map((one) => ({ ...one, wav: heard.find(({ name }) => name === one.name)?.wav ?? came.get(one.name) }));
    const arrays = new Map(all.map((name) => [name, find(name)]));
    // what the kernel took to be here may have gone since
    const whole = [...arrays.values()].every(Boolean) && found.every((one) => one.wav);
    return whole ? { scene, names: all, alt, extra, sounds: found, arrays, says } : null;
  }
}

// The values next to that of a control, the nearest first.
function around(control) {
  const [value, index, step, low, high] = ["value", "index", "step", "min", "max"].map((one) => control.get(one));
  if (control.get("disabled")) return [];
  if (typeof value === "boolean") return [!value];
  const steps = Array.from({ length: 2 * REACH }, (_, i) => (i % 2 ? -1 : 1) * Math.floor(i / 2 + 1));
  if (index !== undefined) return steps.map((one) => index + one).filter((one) => one >= 0 && one < control.get("_options_labels").length);
  if (typeof value !== "number" || !step) return [];
  const now = Math.round((value - low) / step);
  return steps.map((one) => Number((low + (now + one) * step).toPrecision(12))).filter((one) => one >= low && one <= high);
}

// The picture: what the kernel sent on one canvas, what the reader points at on another one above it.
class Board {
  constructor(model, el, sounds) {
    Object.assign(this, { model, sounds, arrays: new Map(), view: { time: null, zoomed: new Map() } });
    this.place = make("div", "unisat-picture", el);
    this.canvas = make("canvas", "unisat-drawing", this.place);
    // a reader of screens gives the keys to an application, and not to a picture
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "picture");
    this.canvas.tabIndex = 0;
    this.over = make("canvas", "unisat-over", this.place);
    this.over.setAttribute("aria-hidden", "true");
    this.tip = make("div", "unisat-tip", this.place);
    this.tip.setAttribute("role", "status");
    this.canvas.dataset.turn = 0;
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointerleave", "pointercancel", "dblclick", "keydown", "blur", "wheel"])
      this.canvas.addEventListener(kind, (event) => this[kind](event), { passive: kind !== "wheel" && kind !== "keydown" });
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.place);
    this.themes = new MutationObserver(() => requestAnimationFrame(() => this.draw()));
    this.themes.observe(document.body, { attributes: true });
  }
  close() {
    this.sizes.disconnect();
    this.themes.disconnect();
    cancelAnimationFrame(this.asked);
  }
  get scene() {
    return this.model.get("scene");
  }

  // ---- drawing ----

  receive(content, buffers) {
    for (const [name, array] of unpack(content, buffers)) if (!this.arrays.has(name)) this.arrays.set(name, array);
    // what comes before its scene waits for it
    if (this.ready !== this.scene) this.change();
  }
  change() {
    const names = this.model.get("names");
    if (names.some((name) => !this.arrays.has(name))) {
      if (this.wanted !== names) this.model.send({ kind: "want" });
      this.wanted = names;
      return;
    }
    const kept = new Set([...names, ...this.model.kernel.get("names")]);
    for (const name of this.arrays.keys()) if (!kept.has(name)) this.arrays.delete(name);
    const same = this.ready && (this.ready === this.scene || text(this.ready) === text(this.scene));
    this.forget(this.ready?.axes ?? [], this.scene.axes ?? []);
    this.ready = this.scene;
    if (!same) this.draw();
  }
  // where an axes has other limits than before, nobody has looked closer yet
  forget(before, now) {
    const other = (name) => (axes, i) => String(axes[name].lim) !== String(before[i]?.[name].lim);
    const [x, y] = ["x", "y"].map((name) => now.map(other(name)));
    now.forEach((axes, i) => {
      if (axes.time && x[i]) this.view.time = this.stretch = null;
      if (x[i] || y[i]) this.view.zoomed.delete(i);
    });
  }
  draw() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.drawNow());
  }
  drawNow() {
    cancelAnimationFrame(this.asked);
    const scene = this.ready;
    this.place.hidden = !scene?.size;
    if (!scene?.size || !this.place.isConnected) return;
    const [width, height] = scene.size;
    this.place.style.width = `${width}px`;
    this.place.style.aspectRatio = `${width} / ${height}`;
    this.scale = (this.place.clientWidth || width) / width;
    const sharp = this.scale * devicePixelRatio;
    for (const one of [this.canvas, this.over]) {
      const size = [Math.round(width * sharp), Math.round(height * sharp)];
      if (one.width !== size[0] || one.height !== size[1]) [one.width, one.height] = size;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    this.theme = themeOf(this.place);
    new Drawing(pen, scene, this.arrays, this.theme).all(this.view);
    this.frames = frames(scene, this.view);
    this.canvas.dataset.turn = Number(this.canvas.dataset.turn) + 1;
    this.pointed ? this.look(this.point) : this.sketch();
  }
  // the cursor, a chosen stretch of time, an outline
  sketch() {
    if (!this.frames) return;
    const pen = this.over.getContext("2d");
    const sharp = this.scale * devicePixelRatio;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.over.width, this.over.height);
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    const timed = this.frames.filter((one) => one.axes.time);
    if (this.stretch)
      for (const frame of timed) {
        const [from, to] = this.stretch.map((time) => Math.min(frame.right, Math.max(frame.left, frame.x(time))));
        pen.fillStyle = `${this.theme.accent}40`;
        pen.fillRect(Math.min(from, to), frame.top, Math.abs(to - from), frame.bottom - frame.top);
      }
    const line = (time, width) => {
      const there = timed.filter((one) => Math.min(...one.xlim) <= time && time <= Math.max(...one.xlim));
      pen.fillStyle = this.theme.accent;
      for (const one of there) pen.fillRect(one.x(time) - width / 2, one.top, width, one.bottom - one.top);
      return there.length;
    };
    this.over.dataset.lines = line(this.time, 1);
    this.over.dataset.playing = line(this.playing, 2) ? this.playing : "";
    if (this.down?.outline.length > 2) {
      pen.beginPath();
      this.down.outline.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x, y));
      pen.closePath();
      pen.fillStyle = "#0072b240";
      pen.strokeStyle = "#0072b2";
      pen.fill();
      pen.stroke();
    }
    if (this.point && document.activeElement === this.canvas && this.byKey) {
      pen.strokeStyle = this.theme.accent;
      pen.strokeRect(this.point[0] - 4, this.point[1] - 4, 8, 8);
    }
  }

  // ---- pointing ----

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((one) => one / this.scale);
  }
  frameAt(point) {
    return this.frames?.find((one) => one.has(point));
  }
  look(point) {
    [this.point, this.pointed] = [point, true];
    const frame = this.frameAt(point);
    this.time = frame?.axes.time ? frame.data(point)[0] : undefined;
    this.tip.textContent = frame ? under(frame, this.arrays, point) : "";
    const [width] = this.scene.size;
    const right = point[0] > width / 2;
    this.tip.style.left = right ? "" : `${(point[0] + 14) * this.scale}px`;
    this.tip.style.right = right ? `${(width - point[0] + 14) * this.scale}px` : "";
    this.tip.style.top = `${Math.max(0, point[1] - 30) * this.scale}px`;
    const active = frame && (frame.axes.time || this.model.get("picks"));
    this.canvas.style.cursor = active ? "pointer" : "";
    this.sketch();
  }
  pointermove(event) {
    const point = this.at(event);
    this.byKey = false;
    if (this.down) this.drag(point);
    this.look(point);
  }
  drag(point) {
    const { down } = this;
    down.far ||= Math.hypot(point[0] - down.point[0], point[1] - down.point[1]) > 4;
    if (!down.far) return;
    if (down.grip === "pan") this.pan(point);
    else if (down.grip === "time") this.stretch = this.between(down.frame, down.point, point);
    else if (down.grip === "lasso") down.outline.push(point);
  }
  // two times, the earlier one first, both of them inside
  between(frame, ...points) {
    const [low, high] = frame.xlim.toSorted((a, b) => a - b);
    return points.map((one) => Math.min(high, Math.max(low, frame.data(one)[0]))).sort((a, b) => a - b);
  }
  pointerdown(event) {
    const point = this.at(event);
    const frame = this.frameAt(point);
    this.canvas.setPointerCapture(event.pointerId);
    let grip = frame?.moved ? "pan" : "";
    if (event.shiftKey && frame) grip = "pan";
    else if (frame?.axes.time) grip = "time";
    else if (this.model.get("lasso")) grip = "lasso";
    this.down = { point, frame, grip, outline: [point] };
  }
  pointerup(event) {
    if (!this.down) return;
    const { frame, grip, far, outline } = this.down;
    const point = this.at(event);
    this.down = null;
    if (!far) this.click(point);
    else if (grip === "time") this.sounds.play(...this.stretch);
    else if (grip === "lasso") this.enclose(outline);
    this.sketch();
  }
  pointercancel() {
    this.down = null;
    this.pointerleave();
  }
  pointerleave() {
    if (this.down) return;
    this.tip.textContent = "";
    [this.time, this.pointed] = [undefined, false];
    this.sketch();
  }
  click(point) {
    const frame = this.frameAt(point);
    if (!frame) return;
    const [x, y] = frame.data(point);
    if (frame.axes.time) {
      // a click into the stretch keeps it, for a second click to look closer at it
      if (this.stretch && !(this.stretch[0] <= x && x <= this.stretch[1])) this.stretch = null;
      this.sounds.seek(x);
    }
    if (!this.model.get("picks")) return;
    const near = nearestNamed(frame, this.arrays, point)?.place ?? [x, y];
    this.model.send({ kind: "click", axes: frame.index, point: near });
  }
  enclose(outline) {
    const middle = [0, 1].map((i) => outline.reduce((sum, one) => sum + one[i], 0) / outline.length);
    const frame = this.frameAt(middle);
    if (frame) this.model.send({ kind: "lasso", axes: frame.index, points: outline.map((one) => frame.data(one)) });
  }

  // ---- looking closer ----

  limit(frame, x, y) {
    const { axes, index } = frame;
    const inside = (lim, whole) => {
      const size = Math.min(Math.abs(lim[1] - lim[0]), Math.abs(whole[1] - whole[0])) * Math.sign(whole[1] - whole[0]);
      const [low, high] = [Math.min(...whole), Math.max(...whole)];
      const start = size > 0 ? Math.max(low, Math.min(lim[0], high - size)) : Math.min(high, Math.max(lim[0], low - size));
      return [start, start + size];
    };
    const all = (lim, whole) => Math.abs(lim[1] - lim[0]) >= 0.999 * Math.abs(whole[1] - whole[0]);
    const [nx, ny] = [inside(x, axes.x.lim), inside(y, axes.y.lim)];
    if (axes.time) this.view.time = all(nx, axes.x.lim) ? null : nx;
    else if (all(nx, axes.x.lim) && all(ny, axes.y.lim)) this.view.zoomed.delete(index);
    else this.view.zoomed.set(index, { x: nx, y: ny });
    this.drawNow();
  }
  zoom(frame, [x, y], factor) {
    const about = ([a, b], v) => [v + (a - v) * factor, v + (b - v) * factor];
    this.limit(frame, about(frame.xlim, x), frame.axes.time ? frame.ylim : about(frame.ylim, y));
  }
  pan(point) {
    const { frame, point: from } = this.down;
    const [now, then] = [frame.data(point), frame.data(from)];
    const shift = (lim, i) => lim.map((v) => v - (now[i] - then[i]));
    this.limit(frame, shift(frame.xlim, 0), frame.axes.time ? frame.ylim : shift(frame.ylim, 1));
  }
  whole() {
    this.view = { time: null, zoomed: new Map() };
    this.drawNow();
  }
  dblclick(event) {
    const frame = this.frameAt(this.at(event));
    if (frame?.axes.time && this.stretch) this.limit(frame, this.stretch, frame.ylim);
    else this.whole();
    this.stretch = null;
  }
  wheel(event) {
    const frame = this.frameAt(this.at(event));
    if (!frame || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    this.zoom(frame, frame.data(this.at(event)), Math.exp(event.deltaY / 300));
  }
  keydown(event) {
    const frame = this.frameAt(this.point ?? [-1, -1]) ?? this.frames?.find((one) => one.axes.time) ?? this.frames?.[0];
    if (!frame || event.ctrlKey || event.metaKey) return;
    const middle = [(frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2];
    const [x, y] = frame.has(this.point ?? [-1, -1]) ? this.point : middle;
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const actions = {
      Enter: () => this.click([x, y]),
      " ": () => this.sounds.toggle(this.stretch),
      "+": () => this.zoom(frame, frame.data([x, y]), 0.5),
      "-": () => this.zoom(frame, frame.data([x, y]), 2),
      0: () => this.whole(),
      n: () => this.visit(frame.index + 1),
      p: () => this.visit(frame.index - 1 + this.frames.length),
    };
    this.byKey = true;
    if (moves[event.key]) {
      // a cell, where cells are large
      const [rows, columns] = frame.axes.artists.find((one) => one.kind === "image")?.shape ?? [];
      const wide = [(frame.right - frame.left) / Math.min(200, columns ?? 200), (frame.bottom - frame.top) / Math.min(100, rows ?? 100)];
      const to = [x, y].map((v, i) => v + moves[event.key][i] * wide[i]);
      this.look([Math.min(frame.right, Math.max(frame.left, to[0])), Math.min(frame.bottom, Math.max(frame.top, to[1]))]);
    } else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  }
  visit(index) {
    const frame = this.frames[index % this.frames.length];
    this.look([(frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2]);
  }
  blur() {
    this.byKey = false;
    this.pointerleave();
  }
}

// The players. One plays at a time on the whole page, and the board's line follows it.
class Sounds {
  constructor(model, el) {
    Object.assign(this, { model, el: make("div", "unisat-sounds", el), urls: [], until: Infinity });
  }
  get players() {
    return [...this.el.querySelectorAll("audio")];
  }
  listen(board) {
    const given = this.model.get("sounds");
    while (this.el.children.length > given.length) this.el.lastChild.remove();
    const [kept, urls] = [this.given ?? [], this.urls];
    this.given = given;
    this.urls = given.map((sound, i) => {
      const same = ["label", "name", "start"].every((one) => kept[i]?.[one] === sound[one]);
      if (same) return urls[i]; // it plays on, or stays where a click put it
      return URL.createObjectURL(new Blob([sound.wav], { type: "audio/wav" }));
    });
    given.forEach((sound, i) => {
      const [player, label] = (this.el.children[i] ?? this.row(board)).children;
      if (this.urls[i] === urls[i]) return;
      if (player === this.current) [board.playing, this.until] = [undefined, Infinity];
      label.textContent = sound.label;
      player.setAttribute("aria-label", sound.label);
      player.dataset.start = sound.start;
      player.src = this.urls[i];
    });
    const old = urls.filter((url) => !this.urls.includes(url));
    setTimeout(() => old.forEach((url) => URL.revokeObjectURL(url)), 1000);
    if (!this.current?.isConnected) board.playing = undefined;
    board.sketch();
  }
  row(board) {
    const row = make("div", "", this.el);
    const player = make("audio", "", row);
    player.controls = true;
    const follow = () => {
      if (player !== this.current) return;
      cancelAnimationFrame(this.asked);
      board.playing = Math.min(this.until, Number(player.dataset.start) + player.currentTime);
      board.sketch();
      if (board.playing === this.until) player.pause();
      else if (!player.paused) this.asked = requestAnimationFrame(follow);
    };
    player.addEventListener("play", () => {
      for (const other of document.querySelectorAll(".unisat-sounds audio")) if (other !== player) other.pause();
      if (player !== this.current) [this.current, this.until] = [player, Infinity];
      follow();
    });
    // timeupdate: a page that is not looked at draws no frames
    for (const event of ["seeked", "timeupdate"]) player.addEventListener(event, follow);
    player.addEventListener("pause", () => {
      if (player === this.current) this.until = Infinity;
    });
    player.addEventListener("ended", () => {
      board.playing = undefined;
      board.sketch();
    });
    make("span", "", row);
    return row;
  }
  chosen() {
    if (!this.current?.isConnected) this.current = this.players[0];
    return this.current;
  }
  seek(time) {
    const player = this.chosen();
    this.until = Infinity;
    // its end is unknown until it is first played
    if (player) player.currentTime = Math.min(Math.max(0, time - player.dataset.start), player.duration || Infinity);
  }
  play(from, to = Infinity) {
    if (!this.chosen()) return;
    this.seek(from);
    this.until = to;
    // refused where the reader has not touched the page yet, and cut off by the next sound
    this.current.play().catch(() => {});
  }
  first() {
    [this.current] = this.players;
    this.play(0);
  }
  toggle(stretch) {
    const player = this.chosen();
    if (player && !player.paused) player.pause();
    else if (stretch) this.play(...stretch);
    else player?.play().catch(() => {});
  }
  close() {
    cancelAnimationFrame(this.asked);
    for (const player of this.players) {
      player.pause();
      player.removeAttribute("src");
    }
    for (const url of this.urls) URL.revokeObjectURL(url);
  }
}

function renderStage({ model, el }) {
  const host = make("div", "", el);
  const alert = make("p", "unisat-alert", el);
  alert.setAttribute("role", "alert");
  const caption = make("p", "unisat-caption", el);
  let later;
  const show = () => {
    write();
    board.change();
    if (ahead.now) board.drawNow(); // within the reader's event
    clearTimeout(later);
    later = setTimeout(() => sounds.listen(board)); // sounds come after the picture, which the reader waits for
  };
  const ahead = new Ahead(model, el, show);
  const shown = { kernel: model, get: (name) => ahead.get(name), send: (content) => model.send(content) };
  const sounds = new Sounds(shown, el);
  const board = new Board(shown, host, sounds);
  const extra = make("div", "unisat-extra", el);
  const bar = make("div", "unisat-buttons", el);
  let asked = "";
  for (const [kind, name, title] of BUTTONS) {
    const button = make("button", "", bar);
    Object.assign(button, { textContent: name, title });
    button.dataset.kind = kind;
    button.addEventListener("click", () => {
      asked = kind;
      model.send({ kind });
    });
  }
  const said = make("span", "", bar);
  said.setAttribute("role", "status");
  const write = () => {
    // ipywidgets marks what has no kernel any more
    const asleep = el.closest(".jupyter-widgets-disconnected") !== null;
    alert.textContent = asleep ? "This widget sleeps: its kernel is gone. Run its cell again." : model.get("alert");
    said.textContent = "";
    caption.textContent = shown.get("alt");
    board.canvas.setAttribute("aria-label", shown.get("alt"));
    if (extra.innerHTML !== shown.get("extra")) extra.innerHTML = shown.get("extra");
    for (const button of bar.querySelectorAll("button")) button.hidden = !model.get("buttons").includes(button.dataset.kind);
  };
  const told = async (content, buffers) => {
    if (content.kind === "arrays") return board.receive(content, buffers);
    if (content.kind === "ahead") return ahead.told(content, buffers);
    if (!asked) return; // another view of this widget did
    asked = "";
    if (content.kind === "file") return save(content.name, buffers[0], content.type);
    el.dataset.code = content.text;
    const copied = await navigator.clipboard?.writeText(content.text).then(() => true, () => false);
    said.textContent = `${copied ? "Copied" : "To copy"}: ${content.text}`;
  };
  const alerted = () => {
    write();
    if (model.get("alert")) ahead.forget();
  };
  const busy = () => el.classList.toggle("unisat-busy", model.get("busy"));
  const changes = { "change:scene": () => board.change(), "change:sounds": () => sounds.listen(board) };
  Object.assign(changes, { "change:alt": write, "change:alert": alerted, "change:extra": write, "change:buttons": write });
  Object.assign(changes, { "change:busy": busy, "change:play": () => sounds.first() });
  Object.assign(changes, { "change:shown": () => ahead.answered(), "change:ahead": () => ahead.answered() });
  Object.assign(changes, { "msg:custom": told, comm_live_update: write });
  for (const [event, action] of Object.entries(changes)) model.on(event, action);
  write();
  board.change();
  sounds.listen(board);
  ahead.begin(board.arrays);
  const stops = [whenAttached(el, nameControls), guardKeys(el)];
  return () => {
    for (const stop of stops) stop();
    ahead.close();
    clearTimeout(later);
    for (const [event, action] of Object.entries(changes)) model.off(event, action);
    board.close();
    sounds.close();
  };
}

// 16-bit WAV of a sound's first channel, at the rate that it has.
function wavOf(sound) {
  const samples = sound.getChannelData(0);
  const file = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((one, i) => file.setUint8(at + i, one.charCodeAt(0)));
  const sizes = [[4, 36 + 2 * samples.length], [16, 16], [24, sound.sampleRate], [28, 2 * sound.sampleRate], [40, 2 * samples.length]];
  for (const [at, text] of [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]]) word(at, text);
  for (const [at, value] of sizes) file.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) file.setUint16(at, value, true);
  samples.forEach((value, i) => file.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return file;
}

// A file from the reader's disk, or the reader's own voice. Too large a message would cut the connection to the kernel
// without a word: such a file stays here, and the kernel gets its size to say so.
function renderUpload({ model, el }) {
  const row = make("div", "unisat-upload", el);
  const label = make("label", "", row);
  label.append(model.get("description"), " ");
  const input = make("input", "", label);
  input.type = "file";
  input.accept = "audio/*";
  input.title = model.get("tooltip");
  input.setAttribute("aria-label", model.get("description"));
  const give = (name, size, content) => {
    model.set("value", { name, size, content });
    model.save_changes();
  };
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    const small = file.size <= model.get("limit");
    give(file.name, file.size, new DataView(small ? await file.arrayBuffer() : new ArrayBuffer(0)));
  });
  const button = make("button", "", row);
  const said = make("span", "unisat-alert", row);
  said.setAttribute("role", "alert");
  const idle = () => Object.assign(button, { textContent: "● Record", title: "record from the microphone, up to a minute" });
  idle();
  let recorder;
  let count = 0;
  button.addEventListener("click", async () => {
    if (recorder?.state === "recording") return recorder.stop();
    said.textContent = "";
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      recorder = new MediaRecorder(stream);
      const parts = [];
      recorder.addEventListener("dataavailable", (part) => parts.push(part.data));
      recorder.addEventListener("stop", async () => {
        for (const track of stream.getTracks()) track.stop();
        if (!row.isConnected) return;
        idle();
        const context = new AudioContext();
        const content = wavOf(await context.decodeAudioData(await new Blob(parts).arrayBuffer()));
        context.close();
        give(`my voice ${++count}`, content.byteLength, content);
      });
      recorder.start();
      setTimeout(() => recorder.state === "recording" && recorder.stop(), 60000);
      Object.assign(button, { textContent: "■ Stop", title: "end the recording" });
    } catch (error) {
      idle();
      said.textContent = `The microphone cannot be used (${error.message}). Allow it in the browser, or choose a file.`;
    }
  });
  return () => recorder?.stream.getTracks().forEach((track) => track.stop());
}

export default {
  render: (context) => (context.model.get("_kind") === "upload" ? renderUpload(context) : renderStage(context)),
};
