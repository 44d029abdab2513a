// Draws what _scene.py describes on a canvas, and says what lies under a point. All places are in the scene's pixels.

const RAW = new WeakMap(); // the canvas of an image and its colours, by the values: pictures share them

// ---- numbers ----

const bounds = (axis, view) => view ?? axis.lim;
const forth = (axis, v) => (axis.scale === "log" ? Math.log(v) : v);
const back = (axis, v) => (axis.scale === "log" ? Math.exp(v) : v);
const share = (axis, [a, b], v) => (forth(axis, v) - forth(axis, a)) / (forth(axis, b) - forth(axis, a));
const unshare = (axis, [a, b], s) => back(axis, forth(axis, a) + s * (forth(axis, b) - forth(axis, a)));

function number(v, range = 0) {
  if (!Number.isFinite(v)) return "–";
  const step = range ? Math.abs(range) / 1000 : Math.abs(v) / 1000;
  const digits = step > 0 ? Math.min(6, Math.max(0, -Math.floor(Math.log10(step)))) : 0;
  const text = digits ? v.toFixed(digits).replace(/\.?0+$/, "") : v.toFixed(0);
  return text === "-0" ? "0" : text.replace("-", "−");
}

function niceTicks([a, b], count = 5) {
  const [low, high] = a < b ? [a, b] : [b, a];
  const rough = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((one) => one * unit >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push([i * step, (i * step).toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))).replace("-", "−")]);
  return ticks;
}

// ---- an axes of the scene, as it is looked at now ----

class Frame {
  constructor(axes, index, size, view) {
    Object.assign(this, { axes, index });
    const [x0, y0, x1, y1] = axes.box;
    [this.left, this.top, this.right, this.bottom] = [x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]];
    const looked = axes.time ? { x: view.time } : view.zoomed.get(index);
    this.xlim = bounds(axes.x, looked?.x);
    this.ylim = bounds(axes.y, looked?.y);
    this.moved = Boolean(looked?.x || looked?.y);
  }
  x(v, inData = true) {
    return this.left + (this.right - this.left) * (inData ? share(this.axes.x, this.xlim, v) : v);
  }
  y(v, inData = true) {
    return this.bottom - (this.bottom - this.top) * (inData ? share(this.axes.y, this.ylim, v) : v);
  }
  has([x, y]) {
    return this.left <= x && x <= this.right && this.top <= y && y <= this.bottom;
  }
  data([x, y]) {
    return [
      unshare(this.axes.x, this.xlim, (x - this.left) / (this.right - this.left)),
      unshare(this.axes.y, this.ylim, (this.bottom - y) / (this.bottom - this.top)),
    ];
  }
}

const frames = (scene, view) => scene.axes.map((axes, index) => new Frame(axes, index, scene.size, view));

// ---- drawing ----

class Drawing {
  constructor(pen, scene, arrays, theme) {
    Object.assign(this, { pen, scene, arrays, theme });
  }
  // black stands for ink, what the theme writes with; but on an image it is black
  ink(colour) {
    if (!colour) return "transparent";
    return colour.startsWith("#000000") && !this.onImage ? this.theme.ink + colour.slice(7) : colour;
  }
  font(size) {
    this.pen.font = `${size}px ${this.theme.font}`;
  }
  write(text, x, y, { size, align = "center", base = "middle", turn = 0, colour = "#000000" }) {
    const { pen } = this;
    this.font(size);
    pen.fillStyle = this.ink(colour);
    pen.textAlign = align;
    pen.textBaseline = { center: "middle", baseline: "alphabetic", center_baseline: "middle" }[base] ?? base;
    const lines = text.split("\n");
    const above = { bottom: lines.length - 1, middle: (lines.length - 1) / 2 }[pen.textBaseline] ?? 0;
    pen.save();
    pen.translate(x, y);
    pen.rotate((-turn * Math.PI) / 180);
    lines.forEach((line, i) => pen.fillText(line, 0, (i - above) * size * 1.2));
    pen.restore();
  }
  all(view) {
    for (const frame of frames(this.scene, view)) this.axes(frame);
    this.scene.legends.forEach((one) => this.entry(one));
    const whole = new Frame({ box: [0, 0, 1, 1], x: { lim: [0, 1] }, y: { lim: [0, 1] } }, -1, this.scene.size, view);
    this.scene.texts.forEach((one) => this.text(one, whole));
  }
  axes(frame) {
    const { pen } = this;
    const { left, top, right, bottom, axes } = frame;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, right - left, bottom - top);
    pen.clip();
    const words = axes.artists.filter((one) => one.kind === "text");
    this.onImage = axes.artists.some((one) => one.kind === "image");
    for (const one of axes.artists) if (one.kind !== "text") this[one.kind](one, frame);
    pen.restore();
    words.forEach((one) => this.text(one, frame));
    this.onImage = false;
    pen.strokeStyle = this.theme.ink;
    pen.lineWidth = 1;
    pen.setLineDash([]);
    pen.beginPath();
    const edges = { left: [left, top, left, bottom], right: [right, top, right, bottom] };
    Object.assign(edges, { top: [left, top, right, top], bottom: [left, bottom, right, bottom] });
    // a colour bar has one spine, all around
    for (const name of axes.spines.includes("outline") ? Object.keys(edges) : axes.spines) {
      const [x0, y0, x1, y1] = edges[name];
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
    this.across(frame);
    this.upright(frame);
    for (const { text, size, align } of axes.titles) {
      const x = { left, center: (left + right) / 2, right }[align];
      this.write(text, x, top - 6, { size, align, base: "bottom" });
    }
    axes.legend.forEach((one) => this.entry(one));
  }
  ticks(axis, lim, moved) {
    return moved && axis.numbers ? niceTicks(lim) : axis.ticks;
  }
  across(frame) {
    const { pen } = this;
    const { axes, left, right, bottom } = frame;
    const axis = axes.x;
    let used = 4;
    for (const [place, name] of this.ticks(axis, frame.xlim, frame.moved)) {
      const x = frame.x(place);
      if (x < left - 1 || x > right + 1) continue;
      pen.strokeStyle = this.theme.ink;
      pen.beginPath();
      pen.moveTo(x, bottom);
      pen.lineTo(x, bottom + 4);
      pen.stroke();
      const turned = axis.turn ? { turn: axis.turn, align: "right", base: "middle" } : { base: "top" };
      this.write(name, x, bottom + 7, { size: axis["tick size"], ...turned });
      this.font(axis["tick size"]);
      const tall = axis.turn ? pen.measureText(name).width * Math.sin((axis.turn * Math.PI) / 180) : 0;
      if (name) used = Math.max(used, 7 + axis["tick size"] * name.split("\n").length * 1.1 + tall);
    }
    if (axis.offset) this.write(axis.offset, right, bottom + used, { size: axis["tick size"], align: "right", base: "top" });
    if (axis.label) this.write(axis.label, (left + right) / 2, bottom + used + 3, { size: axis.size, base: "top" });
  }
  upright(frame) {
    const { pen } = this;
    const { axes, top, bottom } = frame;
    const axis = axes.y;
    const onRight = axis.side === "right";
    const sign = onRight ? 1 : -1;
    const edge = onRight ? frame.right : frame.left;
    let used = 4;
    for (const [place, name] of this.ticks(axis, frame.ylim, frame.moved && !axes.time)) {
      const y = frame.y(place);
      if (y < top - 1 || y > bottom + 1) continue;
      pen.strokeStyle = this.theme.ink;
      pen.beginPath();
      pen.moveTo(edge, y);
      pen.lineTo(edge + 4 * sign, y);
      pen.stroke();
      this.write(name, edge + 7 * sign, y, { size: axis["tick size"], align: onRight ? "left" : "right" });
      this.font(axis["tick size"]);
      if (name) used = Math.max(used, 7 + Math.max(...name.split("\n").map((line) => pen.measureText(line).width)));
    }
    if (axis.offset) this.write(axis.offset, frame.left, top - 4, { size: axis["tick size"], align: "left", base: "bottom" });
    if (!axis.label) return;
    const there = axis["label side"] === "right" ? frame.right + (onRight ? used : 4) + 4 : frame.left - (onRight ? 4 : used) - 4;
    const base = axis["label side"] === "right" ? "top" : "bottom";
    this.write(axis.label, there, (top + bottom) / 2, { size: axis.size, base, turn: 90 });
  }
  image(one, frame) {
    const { pen } = this;
    const [rows, columns] = one.shape;
    const raw = this.coloured(one, rows, columns);
    const [x0, x1] = one.x.map((v) => frame.x(v));
    const [y0, y1] = one.y.map((v) => frame.y(v));
    const [wide, high] = [Math.abs(x1 - x0), Math.abs(y1 - y0)];
    const { a: sharp } = pen.getTransform();
    const [across, up] = [(wide * sharp) / columns, (high * sharp) / rows];
    pen.save();
    pen.globalAlpha = one.alpha;
    pen.imageSmoothingEnabled = across < 1 || up < 1;
    pen.translate(x0, y0);
    pen.scale(Math.sign(x1 - x0), Math.sign(y1 - y0));
    pen.drawImage(across < 1 === up < 1 ? raw : this.enlarged(raw, across, up), 0, 0, wide, high);
    pen.restore();
  }
  // where cells shrink along one side, they become smooth; along the other they must stay sharp
  enlarged(raw, across, up) {
    const [columns, rows] = [across, up].map((factor) => Math.min(8, Math.ceil(factor)));
    const canvas = new OffscreenCanvas(raw.width * columns, raw.height * rows);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(raw, 0, 0, canvas.width, canvas.height);
    return canvas;
  }
  coloured(one, rows, columns) {
    const [values, colours, [low, high]] = [this.arrays.get(one.values), this.arrays.get(one.colours), one.clim];
    const how = [one.colours, low, high, rows].join();
    if (RAW.get(values)?.how === how) return RAW.get(values).canvas;
    const canvas = new OffscreenCanvas(columns, rows);
    const pixels = new ImageData(columns, rows);
    const [out, table] = [new Uint32Array(pixels.data.buffer), new Uint32Array(colours.buffer)];
    const [most, scale] = [table.length - 1, table.length / (high - low || 1)];
    values.forEach((value, i) => {
      if (value === value) out[i] = table[Math.min(most, Math.max(0, Math.floor((value - low) * scale)))];
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    RAW.set(values, { how, canvas });
    return canvas;
  }
  line(one, frame) {
    const { pen } = this;
    const [xs, ys] = [this.arrays.get(one.x), this.arrays.get(one.y)];
    const at = (i) => [frame.x(xs[i], one.data[0]), frame.y(ys[i], one.data[1])];
    if (one.width) {
      this.stroke(one.colour, one.width, one.dash);
      pen.beginPath();
      // of points that follow each other in one column of pixels, only the lowest and the highest are to be seen
      const { a: sharp } = pen.getTransform();
      let [down, run] = [false, null];
      const end = () => {
        if (run?.many) for (const y of [run.low, run.high]) pen.lineTo(run.x, y);
        run = null;
      };
      for (let i = 0; i < xs.length; i++) {
        const [x, y] = at(i);
        const column = Math.floor(x * sharp);
        if (run && column === run.column && y === y) {
          Object.assign(run, { low: Math.min(run.low, y), high: Math.max(run.high, y), many: true });
          continue;
        }
        end();
        if (x === x && y === y) {
          down ? pen.lineTo(x, y) : pen.moveTo(x, y);
          run = { column, x, low: y, high: y };
        }
        down = run !== null;
      }
      end();
      pen.stroke();
    }
    if (one.marker) for (let i = 0; i < xs.length; i++) this.mark(one, ...at(i));
  }
  stroke(colour, width, dash = []) {
    this.pen.strokeStyle = this.ink(colour);
    this.pen.lineWidth = width;
    this.pen.setLineDash(dash);
    // nobody sees the corners of a thin line, and round ones take time
    this.pen.lineJoin = width < 2 ? "bevel" : "round";
  }
  mark(one, x, y) {
    const { pen } = this;
    const r = one.size / 2;
    const corners = { s: [[-1, -1], [1, -1], [1, 1], [-1, 1]], D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] };
    Object.assign(corners, { "^": [[0, -1], [1, 1], [-1, 1]], v: [[0, 1], [1, -1], [-1, -1]] });
    const strokes = { "|": [[[0, -1], [0, 1]]], _: [[[-1, 0], [1, 0]]], x: [[[-1, -1], [1, 1]], [[-1, 1], [1, -1]]] };
    strokes["+"] = [...strokes["|"], ...strokes._];
    pen.beginPath();
    if (strokes[one.marker]) {
      for (const [from, to] of strokes[one.marker]) {
        pen.moveTo(x + r * from[0], y + r * from[1]);
        pen.lineTo(x + r * to[0], y + r * to[1]);
      }
    } else if (one.marker === "*") this.star(x, y, r);
    else if (corners[one.marker]) corners[one.marker].forEach(([a, b], i) => pen[i ? "lineTo" : "moveTo"](x + r * a, y + r * b));
    else pen.arc(x, y, one.marker === "." ? r / 2 : r, 0, 2 * Math.PI);
    pen.closePath();
    pen.fillStyle = this.ink(one.fill);
    if (!strokes[one.marker]) pen.fill();
    this.stroke(one.edge, 1);
    pen.stroke();
  }
  star(x, y, r) {
    for (let i = 0; i < 10; i++) {
      const [far, turn] = [i % 2 ? 0.45 * r : 1.1 * r, (i * Math.PI) / 5];
      this.pen[i ? "lineTo" : "moveTo"](x + far * Math.sin(turn), y - far * Math.cos(turn));
    }
  }
  outlines(one, frame, draw) {
    const points = this.arrays.get(one.points);
    let begin = 0;
    one.ends.forEach((end, part) => {
      this.pen.beginPath();
      for (let i = begin; i < end; i++)
        this.pen[i > begin ? "lineTo" : "moveTo"](frame.x(points[2 * i], one.data[0]), frame.y(points[2 * i + 1], one.data[1]));
      begin = end;
      draw(part);
    });
  }
  area(one, frame) {
    const { pen } = this;
    this.outlines(one, frame, (part) => {
      pen.closePath();
      pen.fillStyle = one.fill.length ? this.ink(one.fill[part % one.fill.length]) : "transparent";
      pen.fill();
      if (!one.width || !one.edge.length) return;
      for (const [colour, width] of [...(one.halo ?? []), [one.edge[part % one.edge.length], one.width]]) {
        this.stroke(colour, width);
        pen.stroke();
      }
    });
  }
  segments(one, frame) {
    this.outlines(one, frame, (part) => {
      this.stroke(one.edge[part % one.edge.length], one.width || 1);
      this.pen.stroke();
    });
  }
  points(one, frame) {
    const { pen } = this;
    const [points, sizes, paint] = [one.points, one.sizes, one.paint].map((name) => this.arrays.get(name));
    for (let i = 0; i < sizes.length; i++) {
      const [x, y] = [frame.x(points[2 * i]), frame.y(points[2 * i + 1])];
      pen.beginPath();
      if (!one.shape.length) pen.arc(x, y, sizes[i] / 2, 0, 2 * Math.PI);
      one.shape.forEach(([a, b], k) => pen[k ? "lineTo" : "moveTo"](x + a * sizes[i], y - b * sizes[i]));
      pen.closePath();
      pen.fillStyle = one.fill.length ? this.ink(one.fill[paint ? paint[i % paint.length] : 0]) : "transparent";
      pen.fill();
      if (!one.edge.length || !one.width) continue;
      this.stroke(one.edge[i % one.edge.length], one.width);
      pen.stroke();
    }
  }
  text(one, frame) {
    const [x, y] = [frame.x(one.x, one.data[0]), frame.y(one.y, one.data[1])];
    if (one.clip && !frame.has([x, y])) return;
    this.font(one.size);
    // the name of a stretch is left out where it is wider than the stretch
    if (one.room.length && this.pen.measureText(one.text).width > frame.x(one.x + one.room[0]) - frame.x(one.x)) return;
    this.write(one.text, x, y, one);
  }
  entry({ text, x, y, size, handle }) {
    this.write(text, x, y, { size, align: "left" });
    if (!handle) return;
    const { pen } = this;
    const [from, to] = [x - 2.6 * size, x - 0.6 * size];
    if (handle.kind === "line") {
      if (handle.width) {
        this.stroke(handle.colour, handle.width, handle.dash);
        pen.beginPath();
        pen.moveTo(from, y);
        pen.lineTo(to, y);
        pen.stroke();
      }
      if (handle.marker) this.mark(handle, (from + to) / 2, y);
      return;
    }
    pen.fillStyle = handle.fill.length ? this.ink(handle.fill[0]) : "transparent";
    pen.beginPath();
    if (handle.kind === "area") pen.rect(from, y - size / 3, to - from, (2 * size) / 3);
    else pen.arc((from + to) / 2, y, size / 3, 0, 2 * Math.PI);
    pen.fill();
    if (!handle.width) return;
    this.stroke(handle.edge[0], handle.width);
    pen.stroke();
  }
}

// ---- what lies under a point ----

const named = (label, v, lim) => `${label ? `${label} ` : ""}${number(v, lim[1] - lim[0])}`;

// the nearest of all points that have names: its name and its place, or nothing
function nearestNamed(frame, arrays, [px, py], reach = 14) {
  let [best, found] = [reach, null];
  for (const one of frame.axes.artists) {
    if (one.kind !== "points" || !one.names) continue;
    const points = arrays.get(one.points);
    for (let i = 0; i < points.length / 2; i++) {
      const place = [points[2 * i], points[2 * i + 1]];
      const far = Math.hypot(frame.x(place[0]) - px, frame.y(place[1]) - py);
      if (far < best) [best, found] = [far, { name: arrays.get(one.names)[i], place }];
    }
  }
  return found;
}

function under(frame, arrays, point) {
  const close = nearestNamed(frame, arrays, point);
  if (close) return close.name;
  const [x, y] = frame.data(point);
  const said = [];
  for (const one of frame.axes.artists) {
    if (one.kind === "image") {
      const [rows, columns] = one.shape;
      const column = Math.floor(((x - one.x[0]) / (one.x[1] - one.x[0])) * columns);
      const row = Math.floor(((y - one.y[0]) / (one.y[1] - one.y[0])) * rows);
      if (column < 0 || row < 0 || column >= columns || row >= rows) continue;
      const value = arrays.get(one.values)[row * columns + column];
      said.push(`${one.name || "value"} ${number(value, one.clim[1] - one.clim[0])}`);
    } else if (one.kind === "line" && one.data[0] && one.data[1] && said.length < 6) {
      const xs = arrays.get(one.x);
      let nearest = 0;
      for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - x) < Math.abs(xs[nearest] - x)) nearest = i;
      const value = arrays.get(one.y)[nearest];
      if (xs.length > 2 && value === value) said.push(`${one.label ? `${one.label} ` : ""}${number(value, frame.ylim[1] - frame.ylim[0])}`);
    } else if (one.kind === "text" && one.room.length) {
      const [wide, tall] = one.room;
      if (Math.abs(x - one.x) <= wide / 2 && Math.abs(y - one.y) <= tall / 2) said.push(one.text);
    }
  }
  const ticks = frame.axes.y.numbers ? null : frame.axes.y.ticks;
  const row = ticks?.reduce((a, b) => (Math.abs(b[0] - y) < Math.abs(a[0] - y) ? b : a), [Infinity, ""])[1];
  // several axes above each other share the label of the lowest
  const across = named(frame.axes.x.label || (frame.axes.time ? "time (s)" : ""), x, frame.xlim);
  return [across, row ? `${frame.axes.y.label} ${row}` : named(frame.axes.y.label, y, frame.ylim), ...said].join(" · ");
}
