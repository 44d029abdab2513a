// The part of a widget that lives in the page: a picture that answers the pointer and the keys, its caption, its sounds.
// scene.js stands in front of this file. No library and no network. The kernel sends arrays and words; the page sends
// clicks, outlines, files, and what its buttons ask for.

const make = (kind, name, parent) => {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (parent) parent.append(made);
  return made;
};

// ipywidgets gives its sliders a visible label, but no accessible name, and leaves keys to JupyterLab's shortcuts.
function nameControls(root) {
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

function guardKeys(root) {
  if (root.dataset.guarded) return;
  root.dataset.guarded = "yes";
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && event.key !== "Escape") event.stopPropagation();
  });
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

// The picture: what the kernel sent on one canvas, what the reader points at on another one above it.
class Board {
  constructor(model, el, sounds) {
    Object.assign(this, { model, sounds, arrays: new Map(), view: { time: null, zoomed: new Map() } });
    this.place = make("div", "unisat-picture", el);
    this.canvas = make("canvas", "unisat-drawing", this.place);
    this.canvas.setAttribute("role", "img");
    this.canvas.tabIndex = 0;
    this.over = make("canvas", "unisat-over", this.place);
    this.tip = make("div", "unisat-tip", this.place);
    this.canvas.dataset.turn = 0;
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointerleave", "dblclick", "keydown", "blur", "wheel"])
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
    content.names.forEach((name, i) => {
      const { buffer, byteOffset, byteLength } = buffers[i];
      const bytes = buffer.slice(byteOffset, byteOffset + byteLength);
      const read = { u1: () => new Uint8Array(bytes), json: () => JSON.parse(new TextDecoder().decode(bytes)) };
      this.arrays.set(name, (read[content.kinds[i]] ?? (() => new Float32Array(bytes)))());
    });
    this.change();
  }
  change() {
    const names = this.model.get("names");
    if (names.some((name) => !this.arrays.has(name))) {
      if (this.wanted !== names) this.model.send({ kind: "want" });
      this.wanted = names;
      return;
    }
    const kept = new Set(names);
    for (const name of this.arrays.keys()) if (!kept.has(name)) this.arrays.delete(name);
    this.ready = this.scene;
    this.draw();
  }
  draw() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.drawNow());
  }
  drawNow() {
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
    this.sketch();
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
    const time = this.playing ?? this.time;
    this.over.dataset.lines = 0;
    for (const frame of timed) {
      const x = time === undefined || time === null ? NaN : frame.x(time);
      if (!(frame.left <= x && x <= frame.right)) continue;
      pen.fillStyle = this.theme.accent;
      pen.fillRect(x - 0.75, frame.top, 1.5, frame.bottom - frame.top);
      this.over.dataset.lines = Number(this.over.dataset.lines) + 1;
    }
    if (this.outline?.length > 2) {
      pen.beginPath();
      this.outline.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x, y));
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
    this.point = point;
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
    if (this.down && this.grip === "pan") this.pan(point);
    else if (this.down && this.grip === "time") this.stretch = [this.from, this.down.frame.data(point)[0]];
    else if (this.down && this.grip === "lasso") this.outline.push(point);
    this.look(point);
  }
  pointerdown(event) {
    const point = this.at(event);
    const frame = this.frameAt(point);
    this.down = { point, frame };
    this.canvas.setPointerCapture(event.pointerId);
    if (event.shiftKey && frame) this.grip = "pan";
    else if (frame?.axes.time) [this.grip, this.from] = ["time", frame.data(point)[0]];
    else if (this.model.get("lasso")) [this.grip, this.outline] = ["lasso", [point]];
    else this.grip = frame?.moved ? "pan" : null;
  }
  pointerup(event) {
    if (!this.down) return;
    const [end, { point, frame }, outline] = [this.at(event), this.down, this.outline];
    this.down = this.outline = null;
    const far = Math.hypot(end[0] - point[0], end[1] - point[1]) > 4 || (outline?.length ?? 0) > 12;
    if (!far) {
      this.stretch = null;
      this.click(end);
    } else if (this.grip === "time") this.sounds.play(...this.stretch.toSorted((a, b) => a - b));
    else if (this.grip === "lasso") this.enclose(outline);
    this.sketch();
  }
  pointerleave() {
    if (this.down) return;
    this.tip.textContent = "";
    this.time = undefined;
    this.sketch();
  }
  click(point) {
    const frame = this.frameAt(point);
    if (!frame) return;
    const [x, y] = frame.data(point);
    if (frame.axes.time) this.sounds.seek(x);
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
    const stretch = this.stretch?.toSorted((a, b) => a - b);
    if (frame?.axes.time && stretch && stretch[1] > stretch[0]) this.limit(frame, stretch, frame.ylim);
    else this.whole();
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
      " ": () => (this.stretch ? this.sounds.play(...this.stretch) : this.sounds.toggle()),
      "+": () => this.zoom(frame, frame.data([x, y]), 0.5),
      "-": () => this.zoom(frame, frame.data([x, y]), 2),
      0: () => this.whole(),
      n: () => this.visit(frame.index + 1),
      p: () => this.visit(frame.index - 1 + this.frames.length),
    };
    this.byKey = true;
    if (moves[event.key]) {
      const wide = [(frame.right - frame.left) / 200, (frame.bottom - frame.top) / 100];
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

function sameSound(one, other) {
  if (one.label !== other.label || one.start !== other.start || one.wav.byteLength !== other.wav.byteLength) return false;
  const [a, b] = [one, other].map(({ wav }) => new Uint8Array(wav.buffer, wav.byteOffset, wav.byteLength));
  return a.every((value, i) => value === b[i]);
}

// The players. One plays at a time, and the board's cursor follows it.
class Sounds {
  constructor(model, el) {
    Object.assign(this, { model, el: make("div", "unisat-sounds", el), urls: new Map() });
  }
  get players() {
    return [...this.el.querySelectorAll("audio")];
  }
  listen(board) {
    const given = this.model.get("sounds");
    while (this.el.children.length > given.length) this.el.lastChild.remove();
    const kept = this.given ?? [];
    this.given = given;
    given.forEach((sound, i) => {
      const row = this.el.children[i] ?? this.row(board);
      if (kept[i] && sameSound(kept[i], sound)) return; // it plays on, or stays where a click put it
      const [player, label] = row.children;
      if (player === this.current) board.playing = undefined;
      label.textContent = sound.label;
      player.setAttribute("aria-label", sound.label);
      player.dataset.start = sound.start;
      const old = this.urls.get(i);
      this.urls.set(i, URL.createObjectURL(new Blob([sound.wav], { type: "audio/wav" })));
      player.src = this.urls.get(i);
      if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    });
    if (!this.current?.isConnected) board.playing = undefined;
    board.sketch();
  }
  row(board) {
    const row = make("div", "", this.el);
    const player = make("audio", "", row);
    player.controls = true;
    const follow = () => {
      if (player !== this.current) return;
      board.playing = Number(player.dataset.start) + player.currentTime;
      if (board.playing >= this.until) player.pause();
      board.sketch();
      if (!player.paused) requestAnimationFrame(follow);
    };
    player.addEventListener("play", () => {
      for (const other of this.players) if (other !== player) other.pause();
      this.current = player;
      follow();
    });
    player.addEventListener("seeked", follow);
    player.addEventListener("pause", () => (this.until = Infinity));
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
    // its end is unknown until it is first played
    if (player) player.currentTime = Math.min(Math.max(0, time - player.dataset.start), player.duration || Infinity);
  }
  play(from, to) {
    if (!this.chosen()) return;
    this.seek(from);
    this.until = to;
    this.current.play();
  }
  first() {
    const [player] = this.players;
    if (!player) return;
    player.currentTime = 0;
    player.play();
  }
  toggle() {
    const player = this.chosen();
    if (player) player.paused ? player.play() : player.pause();
  }
  close() {
    for (const player of this.players) {
      player.pause();
      player.removeAttribute("src");
    }
    for (const url of this.urls.values()) URL.revokeObjectURL(url);
  }
}

function renderStage({ model, el }) {
  const host = make("div", "", el);
  const alert = make("p", "unisat-alert", el);
  alert.setAttribute("role", "alert");
  const caption = make("p", "unisat-caption", el);
  const sounds = new Sounds(model, el);
  const board = new Board(model, host, sounds);
  const extra = make("div", "unisat-extra", el);
  const bar = make("div", "unisat-buttons", el);
  for (const [kind, name, title] of BUTTONS) {
    const button = make("button", "", bar);
    Object.assign(button, { textContent: name, title });
    button.dataset.kind = kind;
    button.addEventListener("click", () => model.send({ kind }));
  }
  const asleep = () => {
    alert.textContent = "This widget sleeps: its kernel is gone. Run its cell again.";
  };
  const write = () => {
    alert.textContent = model.get("alert");
    caption.textContent = model.get("alt");
    board.canvas.setAttribute("aria-label", model.get("alt"));
    if (extra.innerHTML !== model.get("extra")) extra.innerHTML = model.get("extra");
    for (const button of bar.children) button.hidden = !model.get("buttons").includes(button.dataset.kind);
  };
  const told = async (content, buffers) => {
    if (content.kind === "arrays") board.receive(content, buffers);
    else if (content.kind === "file") save(content.name, buffers[0], content.type);
    else if (content.kind === "code") {
      el.dataset.code = content.text;
      await navigator.clipboard?.writeText(content.text).catch(() => {});
      alert.textContent = `Copied: ${content.text}`;
    }
  };
  const busy = () => el.classList.toggle("unisat-busy", model.get("busy"));
  const changes = { "change:scene": () => board.change(), "change:sounds": () => sounds.listen(board) };
  changes["change:play"] = () => sounds.first();
  Object.assign(changes, { "change:alt": write, "change:alert": write, "change:extra": write, "change:buttons": write });
  Object.assign(changes, { "change:busy": busy, "msg:custom": told, "comm_live_update": asleep, destroy: asleep });
  for (const [event, action] of Object.entries(changes)) model.on(event, action);
  write();
  board.change();
  sounds.listen(board);
  const stop = whenAttached(el, (root) => {
    nameControls(root);
    guardKeys(root);
  });
  return () => {
    stop();
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
  const label = make("label", "unisat-upload", el);
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
  const button = make("button", "", label);
  const said = make("span", "unisat-alert", label);
  said.setAttribute("role", "alert");
  const idle = () => Object.assign(button, { textContent: "● Record", title: "record from the microphone, up to a minute" });
  idle();
  let recorder;
  let count = 0;
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    if (recorder?.state === "recording") return recorder.stop();
    said.textContent = "";
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      recorder = new MediaRecorder(stream);
      const parts = [];
      recorder.addEventListener("dataavailable", (part) => parts.push(part.data));
      recorder.addEventListener("stop", async () => {
        for (const track of stream.getTracks()) track.stop();
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
}

export default {
  render: (context) => (context.model.get("_kind") === "upload" ? renderUpload(context) : renderStage(context)),
};
