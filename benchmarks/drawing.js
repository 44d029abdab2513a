// The three pictures of drawing.py, by each side, and the time that a redraw takes.
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#e69f00', '#cc79a7', '#56b4e9', '#f0e442', '#444444', '#888888', '#aa3377'];
const host = () => { document.body.innerHTML = '<div id=host style="width:840px;height:480px"></div>'; return document.getElementById('host'); };
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);
const cells = (map) => Array.from(map.values, (v, i) => [i % map.columns, Math.floor(i / map.columns), v]);
// begins with a frame, ends when it is painted
const painted = (draw) => new Promise((done) => requestAnimationFrame(() => {
  const started = performance.now(), { port1, port2 } = new MessageChannel();
  port1.onmessage = () => done(performance.now() - started);
  draw();
  for (const one of document.querySelectorAll('canvas')) if (one.width) one.getContext('2d').getImageData(0, 0, 1, 1);
  port2.postMessage(0);
}));
const makers = {
  unisat(work, data, scene) {
    const canvas = document.createElement('canvas');
    host().append(canvas);
    [canvas.width, canvas.height] = scene.parts.size;
    const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const arrays = new Map(Object.entries(scene.arrays).map(([name, text]) => [name, name.endsWith('u1') ? bytes(text) : floats(text)]));
    const pen = canvas.getContext('2d'), theme = { ink: '#000000', font: 'sans-serif' };
    return () => {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      new Drawing(pen, structuredClone(scene.parts), arrays, theme).all({ time: null, zoomed: new Map() });
    };
  },
  uPlot(work, data) {
    if (work === 'heat') return null;
    const size = { width: 840, height: 480, scales: { x: { time: false } } }, dots = { paths: () => null, points: { show: true, size: 5 } };
    if (work === 'strip') return null;
    const order = Array.from(data.x.keys()).sort((a, b) => data.x[a] - data.x[b]);
    const series = COLOURS.map((stroke, k) => ({ ...dots, stroke }));
    const columns = [order.map((i) => data.x[i]), ...COLOURS.map((_, k) => order.map((i) => (i % 10 === k ? data.y[i] : null)))];
    const plot = new uPlot({ ...size, series: [{}, ...series] }, columns, host());
    return () => plot.setData(columns);
  },
  'Observable Plot'(work, data) {
    const place = host(), size = { width: 840, height: work === 'strip' ? 240 : 480 };
    const heat = (map) => Plot.plot({ ...size, color: { scheme: 'viridis' }, marks: [Plot.raster(map.values, { width: map.columns, height: map.rows })] });
    const points = () => Plot.plot({ ...size, marks: [Plot.dot(data.x, { x: data.x, y: data.y, r: 2.5, fill: (_, i) => COLOURS[i % 10] })] });
    const line = () => Plot.plot({ ...size, marks: [Plot.lineY(data.wave)] });
    const made = { heat: () => [heat(data.map)], points: () => [points()], strip: () => [line(), heat(data.map)] };
    return () => place.replaceChildren(...made[work]());
  },
  ECharts(work, data) {
    const chart = echarts.init(host(), null, { renderer: 'canvas' });
    const grids = work === 'strip' ? [{ bottom: '55%' }, { top: '55%' }] : [{}];
    const heat = (map, i) => ({ type: 'heatmap', data: cells(map), xAxisIndex: i, yAxisIndex: i, progressive: 0 });
    const kind = (n) => ({ type: 'category', data: Array.from({ length: n }, (_, k) => k) });
    const colour = { visualMap: { min: 0, max: 1, show: false, seriesIndex: work === 'strip' ? 1 : 0 } };
    const points = COLOURS.map((itemStyle, k) => ({ type: 'scatter', symbolSize: 5, itemStyle: { color: itemStyle },
      data: Array.from(data.x ?? [], (v, i) => [v, data.y[i]]).filter((_, i) => i % 10 === k) }));
    const options = {
      heat: () => ({ ...colour, xAxis: kind(data.map.columns), yAxis: kind(data.map.rows), series: [heat(data.map, 0)] }),
      points: () => ({ xAxis: { scale: true }, yAxis: { scale: true }, series: points }),
      strip: () => ({ ...colour, xAxis: [{ gridIndex: 0, max: data.wave.length }, { ...kind(data.map.columns), gridIndex: 1 }],
        yAxis: [{ gridIndex: 0 }, { ...kind(data.map.rows), gridIndex: 1 }],
        series: [{ type: 'line', showSymbol: false, data: Array.from(data.wave, (v, i) => [i, v]) }, heat(data.map, 1)] }),
    };
    return () => { chart.setOption({ animation: false, grid: grids, ...options[work]() }, { notMerge: true }); chart.getZr().flush(); };
  },
};
window.measure = async (side, work, given, scene, times) => {
  const data = { ...given };
  for (const name of ['x', 'y', 'wave']) if (data[name]) data[name] = floats(data[name]);
  if (data.map) data.map = { ...data.map, values: floats(data.map.values) };
  const draw = makers[side](work, data, scene), taken = [];
  if (!draw) return null;
  for (let i = -2; i < times; i++) taken.push(await painted(draw));
  return taken.slice(2);
};
