// What the browser tests look at, inside the page.
window.unisat = {
  views: () => [...document.querySelectorAll('.jp-OutputArea-output .unisat')],
  picture: (view) => view.querySelector('canvas.unisat-drawing'),
  // what the eye sees of a picture: a number that changes with its pixels
  look: (image) => {
    if (!image || !image.width) return 'blank';
    const canvas = new OffscreenCanvas(256, 256), pen = canvas.getContext('2d');
    pen.drawImage(image, 0, 0, 256, 256);
    let sum = 0;
    pen.getImageData(0, 0, 256, 256).data.forEach((value, i) => { sum = (sum * 31 + value + i % 7) % 4294967291; });
    return String(sum);
  },
  // watch a view from the next key, click or choice on: when does its picture first change, was it ever blank?
  watch: (view) => {
    const image = unisat.picture(view), before = unisat.look(image), height = view.offsetHeight;
    const seen = { first: null, blank: 0, jump: 0, started: null, turn: image && image.dataset.turn };
    let last = performance.now(), on = true;
    const begin = (event) => { seen.started ??= event.timeStamp; };
    ['keydown', 'pointerdown', 'change'].forEach((kind) => document.addEventListener(kind, begin, true));
    const frame = () => {
      const now = performance.now(), shown = unisat.picture(view);
      if (image && (!shown || !shown.width || !shown.isConnected)) seen.blank += now - last;
      seen.jump = Math.max(seen.jump, Math.abs(view.offsetHeight - height));
      if (shown && shown.dataset.turn !== seen.turn && seen.first === null) {
        seen.first = now - (seen.started ?? now);
        seen.changed = unisat.look(shown) !== before;
      }
      last = now;
      if (on) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    unisat.seen = seen;
    unisat.stop = () => { on = false; return seen; };
  },
  // milliseconds from an event to the picture that answers it, its pixels included
  times: (view, kind, times) => {
    const canvas = unisat.picture(view), box = canvas.getBoundingClientRect(), taken = [];
    const pixel = (one) => one.getContext('2d').getImageData(0, 0, 1, 1);
    const point = (share) => new PointerEvent('pointermove', {
      clientX: box.left + (0.2 + 0.2 * share) * box.width, clientY: box.top + 0.25 * box.height, bubbles: true });
    canvas.dispatchEvent(point(0.5));
    for (let i = -3; i < times; i++) {
      const key = i % 2 ? '+' : '0';
      const event = kind === 'hover' ? point((i + 3) / (times + 3)) : new KeyboardEvent('keydown', { key, bubbles: true });
      const turn = canvas.dataset.turn, started = performance.now();
      canvas.dispatchEvent(event);
      pixel(kind === 'hover' ? view.querySelector('.unisat-over') : canvas);
      if (i >= 0) taken.push(performance.now() - started);
      if (kind === 'zoom' && turn === canvas.dataset.turn) throw new Error('nothing was drawn');
    }
    canvas.dispatchEvent(new KeyboardEvent('keydown', { key: '0', bubbles: true }));
    return taken;
  },
  // the same from an event of a control to a picture that was asked ahead: ten steps up, ten down, and so on
  moves: (view, control, times) => {
    const canvas = unisat.picture(view), taken = [];
    for (let i = -3; i < times; i++) {
      const up = Math.floor((i + 3) / 10) % 2 === 0, turn = canvas.dataset.turn, started = performance.now();
      if (control.options) control.selectedIndex = Math.max(0, control.selectedIndex + (up ? 1 : -1));
      const event = control.options ? new Event('change', { bubbles: true }) :
        new KeyboardEvent('keydown', { key: up ? 'ArrowRight' : 'ArrowLeft', bubbles: true, cancelable: true });
      control.dispatchEvent(event);
      canvas.getContext('2d').getImageData(0, 0, 1, 1);
      if (i >= 0 && turn !== canvas.dataset.turn) taken.push(performance.now() - started);
    }
    return taken;
  },
  names: () => {
    const named = (one) => one.getAttribute('aria-label') || (one.labels && one.labels.length) ||
      one.textContent.trim() || one.title;
    const controls = document.querySelectorAll('.unisat :is(input, select, button, audio, [role=slider], [contenteditable])');
    return {
      pictures: [...document.querySelectorAll('.jp-OutputArea-output :is(img, canvas.unisat-drawing)')].filter((one) => !(one.alt || one.ariaLabel)).length,
      sounds: [...document.querySelectorAll('.jp-OutputArea-output audio')].filter((one) => !one.ariaLabel).length,
      controls: [...controls].filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 200)),
      unreachable: [...document.querySelectorAll('.unisat :is(input, select, button, [role=slider])')]
        .filter((one) => one.tabIndex < 0).map((one) => one.outerHTML.slice(0, 200)),
    };
  },
  // contrast of every line of text in a view with what lies behind it (WCAG 2, 1.4.3)
  contrast: (view) => {
    const parse = (colour) => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const low = [];
    for (const one of view.querySelectorAll('*')) {
      if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !one.offsetParent) continue;
      let behind = one, back = [0, 0, 0, 0];
      while (behind && !(back[3] ?? 1)) { back = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
      const [a, b] = [light(parse(getComputedStyle(one).color)), light(back)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < 4.5) low.push([one.textContent.trim().slice(0, 60), Math.round(100 * ratio) / 100]);
    }
    return low;
  },
};
