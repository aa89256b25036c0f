// --- figures

const MIN_PANEL = 90;
// What a panel needs beside its plot: the labels and the title of its axis, and the distance to the next panel.
const BESIDE_PANEL = 70;

// Panels stand side by side as far as there is room, in lines of about the same length.
function fitted(spec, room, rows) {
  const panels = spec.concat ?? spec.hconcat;
  if (panels) {
    const { hconcat, ...rest } = spec;
    const widest = Math.max(...panels.map((panel) => panel.width ?? 0));
    const most = Math.max(1, Math.min(panels.length, Math.floor(room / (widest + BESIDE_PANEL))));
    const columns = Math.ceil(panels.length / Math.ceil(panels.length / most));
    return { ...rest, concat: panels.map((panel) => fitted(panel, room / columns, rows)), columns };
  }
  if (spec.vconcat) return { ...spec, vconcat: spec.vconcat.map((part) => fitted(part, room, rows)) };
  if (spec.spec) return { ...spec, spec: fitted(spec.spec, room / facetColumns(spec, rows), rows) };
  return typeof spec.width === "number" ? { ...spec, width: Math.max(MIN_PANEL, Math.min(spec.width, room - BESIDE_PANEL)) } : spec;
}

function facetColumns(spec, rows) {
  const field = spec.facet?.column?.field;
  return field ? new Set(rows.map((row) => row[field])).size || 1 : 1;
}

function numColumns(spec, rows) {
  if (spec.vconcat) return Math.max(...spec.vconcat.map((part) => numColumns(part, rows)));
  return spec.concat ? spec.columns : facetColumns(spec, rows);
}

// Give all panels the width with which the chart is as wide as its card.
async function widen(view, target, columns) {
  const { signals } = view.getState({ signals: () => true, data: () => false });
  const ofPanels = Object.keys(signals).filter((name) => /_width$|(^|_)childWidth$/.test(name));
  const names = ofPanels.length ? ofPanels : ["width"];
  for (let round = 0; round < 3; round += 1) {
    const missing = roomOf(target) - Number(target.querySelector("svg.marks").getAttribute("width"));
    if (Math.abs(missing) < 2) return;
    for (const name of names) view.signal(name, Math.max(MIN_PANEL, view.signal(name) + missing / columns));
    await view.resize().runAsync();
  }
}

const roomOf = (target) => target.clientWidth - 1;

// Labels of legends stand below each other on a narrow screen, where they would be cut beside each other.
function chartConfig(room) {
  const config = data.config[isDark() ? "dark" : "light"];
  return { ...config, legend: { ...config.legend, columns: room < 600 ? 1 : config.legend.columns, labelLimit: room - 40 } };
}

async function drawChart(figure) {
  const target = document.querySelector(`#${CSS.escape(figure.name)} .chart`);
  const spec = fitted(structuredClone(figure.spec), roomOf(target), figure.rows);
  // With the interpreter (ast), no expression is compiled, so that the policy need not allow it.
  const { view } = await window.vegaEmbed(target, { ...spec, config: chartConfig(roomOf(target)) }, {
    ast: true, renderer: "svg", downloadFileName: figure.name,
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
  });
  await widen(view, target, numColumns(spec, figure.rows));
  document.getElementById(figure.name).style.minHeight = "";
  target.dataset.drawn = isDark() ? "dark" : "light";
}

// How far a figure is from what the screen shows, in pixels.
function distanceOf(figure) {
  const { top, bottom } = document.getElementById(figure.name).getBoundingClientRect();
  return Math.max(0, top - innerHeight, -bottom);
}

const idle = () => new Promise((resolve) => (window.requestIdleCallback ? requestIdleCallback(resolve, { timeout: 300 }) : setTimeout(resolve)));

// Which call of drawCharts is the newest, and the chart that is drawn at the moment: two never are at the same time.
let newestDrawing;
let chartUnderWay = Promise.resolve();

// Draw the figures that the screen shows, then the others, the nearest first, while the page has nothing else to do.
// Returns when those that the screen shows are drawn.
async function drawCharts() {
  const drawing = (newestDrawing = {});
  const missing = new Set(data.figures);
  const nearest = () => [...missing].reduce((best, figure) => (distanceOf(figure) < distanceOf(best) ? figure : best));
  window.isheepReport.isDrawn = false;
  // Returns false if the scheme or the width has changed meanwhile, so that all are drawn anew.
  const drawNext = async () => {
    if (newestDrawing !== drawing) return false;
    const figure = nearest();
    missing.delete(figure);
    chartUnderWay = chartUnderWay.then(() => drawChart(figure));
    await chartUnderWay;
    return true;
  };
  while (missing.size && distanceOf(nearest()) === 0) if (!(await drawNext())) return;
  const drawOthers = async () => {
    while (missing.size) {
      await idle();
      if (!(await drawNext())) return;
    }
    window.isheepReport.isDrawn = newestDrawing === drawing;
  };
  drawOthers();
}

// A telephone that is turned has another width.
let drawnWidth = innerWidth;
let resizeTimer;
addEventListener("resize", () => {
  clearTimeout(resizeTimer);
  resizeTimer = setTimeout(() => {
    if (innerWidth === drawnWidth) return;
    drawnWidth = innerWidth;
    drawCharts();
  }, 250);
});

function csvOf(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => columns.map((name) => quoted(String(row[name] ?? ""))).join(","));
  return [columns.map(quoted).join(","), ...lines].join("\n") + "\n";
}

for (const button of document.querySelectorAll("button.csv")) {
  button.addEventListener("click", () => {
    const figure = data.figures.find((entry) => entry.name === button.dataset.figure);
    const address = URL.createObjectURL(new Blob([csvOf(figure.rows)], { type: "text/csv" }));
    element("a", { href: address, download: `${figure.name}.csv` }).click();
    URL.revokeObjectURL(address);
  });
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const target = document.getElementById(button.dataset.copies);
    getSelection().selectAllChildren(target);
    document.execCommand("copy");
    button.textContent = "Copied";
  });
}
