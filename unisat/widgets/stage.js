// The part of a widget that lives in the page: one picture with its caption, its sounds, and what the reader points at.
// No library and no network. The kernel sends bytes and words; the page sends clicks, outlines and files.

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

function renderStage({ model, el }) {
  const place = make("div", "unisat-picture", el);
  const image = make("img", "", place);
  const alert = make("p", "unisat-alert", el);
  alert.setAttribute("role", "alert");
  const caption = make("p", "unisat-caption", el);
  const sounds = make("div", "unisat-sounds", el);
  const extra = make("div", "unisat-extra", el);
  const urls = new Map(); // what the page holds, to be let go of
  const hold = (key, bytes, type) => {
    const old = urls.get(key);
    const url = URL.createObjectURL(new Blob([bytes], { type }));
    urls.set(key, url);
    if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    return url;
  };

  let latest = 0;
  async function draw() {
    const [bytes, alt, turn] = [model.get("png"), model.get("alt"), ++latest];
    place.hidden = !bytes.byteLength;
    if (place.hidden) return;
    const url = hold("png", bytes, "image/png");
    const next = new Image();
    next.src = url;
    await next.decode().catch(() => {}); // no blank frame: the old picture stays until the new one is ready
    if (turn !== latest) return;
    [image.width, image.height] = model.get("size");
    image.src = url;
    image.alt = alt;
  }
  const write = () => {
    alert.textContent = model.get("alert");
    caption.textContent = model.get("alt");
    if (extra.innerHTML !== model.get("extra")) extra.innerHTML = model.get("extra");
  };

  let current; // the player that a click seeks in
  let lines = [];
  function cursor(time) {
    const axes = time === null ? [] : model.get("cursors").filter((one) => one.t0 <= time && time <= one.t1);
    while (lines.length < axes.length) lines.push(make("div", "unisat-cursor", place));
    while (lines.length > axes.length) lines.pop().remove();
    axes.forEach((one, i) => {
      lines[i].style.left = `${100 * (one.x0 + ((one.x1 - one.x0) * (time - one.t0)) / (one.t1 - one.t0))}%`;
      lines[i].style.top = `${100 * one.y0}%`;
      lines[i].style.height = `${100 * (one.y1 - one.y0)}%`;
    });
  }
  const follow = (player) => {
    cursor(Number(player.dataset.start) + player.currentTime);
    if (!player.paused) requestAnimationFrame(() => follow(player));
  };
  function listen() {
    const given = model.get("sounds");
    while (sounds.children.length > given.length) sounds.lastChild.remove();
    cursor(null);
    given.forEach((sound, i) => {
      let row = sounds.children[i];
      if (!row) {
        row = make("div", "", sounds);
        const player = make("audio", "", row);
        player.controls = true;
        player.addEventListener("play", () => {
          for (const other of sounds.querySelectorAll("audio")) if (other !== player) other.pause();
          current = player;
          follow(player);
        });
        player.addEventListener("ended", () => cursor(null));
        make("span", "", row);
      }
      const [player, label] = row.children;
      label.textContent = sound.label;
      player.setAttribute("aria-label", sound.label);
      player.dataset.start = sound.start;
      player.src = hold(`sound ${i}`, sound.wav, "audio/wav");
    });
  }

  const at = (event) => {
    const box = image.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  function seek([x, y]) {
    const axes = model.get("cursors").find((one) => one.x0 <= x && x <= one.x1 && one.y0 <= y && y <= one.y1);
    const player = current?.isConnected ? current : sounds.querySelector("audio");
    if (!axes || !player) return;
    const time = axes.t0 + ((axes.t1 - axes.t0) * (x - axes.x0)) / (axes.x1 - axes.x0);
    // its end is unknown until it is first played
    player.currentTime = Math.min(Math.max(0, time - player.dataset.start), player.duration || Infinity);
    cursor(time);
  }
  let outline = null; // of a lasso being drawn
  image.draggable = false;
  image.addEventListener("pointerdown", (event) => {
    outline = [at(event)];
    if (model.get("lasso")) image.setPointerCapture(event.pointerId);
  });
  let rope;
  image.addEventListener("pointermove", (event) => {
    if (!outline || !model.get("lasso")) return;
    outline.push(at(event));
    if (outline.length < 4) return;
    rope ??= make("div", "unisat-rope", place);
    const points = outline.map(([x, y]) => `${100 * x}% ${100 * y}%`).join(", ");
    rope.style.clipPath = `polygon(${points})`;
  });
  image.addEventListener("pointerup", (event) => {
    if (!outline) return;
    const [points, end] = [outline, at(event)];
    outline = null;
    rope?.remove();
    rope = undefined;
    const far = points.some(([x, y]) => Math.hypot(x - end[0], y - end[1]) > 0.02);
    if (model.get("lasso") && far && points.length > 3) model.send({ kind: "lasso", points });
    else {
      seek(end);
      if (model.get("picks")) model.send({ kind: "click", point: end });
    }
  });

  const changes = { "change:png": draw, "change:alt": write, "change:alert": write, "change:extra": write };
  changes["change:sounds"] = listen;
  for (const [event, action] of Object.entries(changes)) model.on(event, action);
  [draw, write, listen].forEach((action) => action());
  const stop = whenAttached(el, (root) => {
    nameControls(root);
    guardKeys(root);
  });
  return () => {
    stop();
    for (const [event, action] of Object.entries(changes)) model.off(event, action);
    for (const player of sounds.querySelectorAll("audio")) {
      player.pause();
      player.removeAttribute("src");
    }
    for (const url of urls.values()) URL.revokeObjectURL(url);
  };
}

// A file from the reader's disk. Too large a message would cut the connection to the kernel without a word: such a
// file stays here, and the kernel gets its size to say so.
function renderUpload({ model, el }) {
  const label = make("label", "unisat-upload", el);
  label.append(model.get("description"), " ");
  const input = make("input", "", label);
  input.type = "file";
  input.accept = "audio/*";
  input.title = model.get("tooltip");
  input.setAttribute("aria-label", model.get("description"));
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    const small = file.size <= model.get("limit");
    const content = new DataView(small ? await file.arrayBuffer() : new ArrayBuffer(0));
    model.set("value", { name: file.name, size: file.size, content });
    model.save_changes();
  });
}

export default {
  render: (context) => (context.model.get("_kind") === "upload" ? renderUpload(context) : renderStage(context)),
};
