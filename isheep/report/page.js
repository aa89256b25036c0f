// The page of a run. Text of a model reaches the page as textContent only, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const darkQuery = matchMedia("(prefers-color-scheme: dark)");
// What a terminal would act on, and marks that change the direction of text: they are shown as escapes.
const UNPRINTABLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

const visible = (text) => text.replace(UNPRINTABLE, (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// --- light and dark

const isDark = () => root.classList.contains("dark") || (darkQuery.matches && !root.classList.contains("light"));

function setScheme(scheme) {
  root.classList.remove("light", "dark");
  if (scheme) root.classList.add(scheme);
  remember("isheep-scheme", scheme);
  drawCharts();
}

// Storage may be switched off for pages from disk.
function remember(key, value, storage = "localStorage") {
  try {
    if (value) window[storage].setItem(key, value);
    else window[storage].removeItem(key);
  } catch { /* The page works without. */ }
}

function recall(key, storage = "localStorage") {
  try { return window[storage].getItem(key); } catch { return null; }
}

// --- figures

// On a narrow screen panels stand below each other, each as wide as there is room.
function fitted(spec, room) {
  if (room > 800) return spec;
  const { hconcat, ...rest } = spec;
  if (hconcat) return { ...rest, vconcat: hconcat.map((part) => fitted(part, room)) };
  for (const name of ["vconcat", "concat"]) {
    if (spec[name]) return { ...spec, [name]: spec[name].map((part) => fitted(part, room)), ...(name === "concat" ? { columns: 1 } : {}) };
  }
  if (spec.spec?.width) return { ...spec, spec: { ...spec.spec, width: Math.max(90, Math.min(spec.spec.width, (room - 90) / facetColumns(spec))) } };
  return typeof spec.width === "number" ? { ...spec, width: Math.min(spec.width, Math.max(180, room - 100)) } : spec;
}

function facetColumns(spec) {
  const field = spec.facet?.column?.field;
  const values = spec.data?.values ?? [];
  return field ? new Set(values.map((row) => row[field])).size || 1 : 1;
}

async function drawCharts() {
  const config = data.config[isDark() ? "dark" : "light"];
  for (const figure of data.figures) {
    const target = document.querySelector(`#${CSS.escape(figure.name)} .chart`);
    const spec = { ...fitted(structuredClone(figure.spec), target.clientWidth), config };
    // With the interpreter (ast), no expression is compiled, so that the policy need not allow it.
    await window.vegaEmbed(target, spec, {
      ast: true, renderer: "svg", downloadFileName: figure.name,
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    });
    target.dataset.drawn = isDark() ? "dark" : "light";
  }
}

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

// --- the browser of examples

async function unpack(text) {
  const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const outcomeOf = (rows, index) => (rows.by[index] ? `${rows.outcome[index]} by ${rows.by[index]}` : rows.outcome[index]);
const quadrantOf = (rows, index) => rows.quadrant[index];

function verdictText(value) {
  if (value === null || value === undefined) return "–";
  if (value === true) return "right";
  return value === false ? "wrong" : String(Math.round(value * 1000) / 1000);
}

function tag(text, kind) { return element("span", { class: `tag ${kind}` }, visible(text)); }

function cell(text) {
  const node = element("div", { class: "cell", dir: "auto" });
  node.textContent = visible(text.slice(0, 300));
  return node;
}

function textField(title, text, about = "") {
  const body = element("div", { class: "text", dir: "auto" });
  body.textContent = visible(text);
  return [element("h4", {}, title + about), body];
}

// The two kinds of rows: their columns, filters, texts to search in, and details.
function generatedKind(rows) {
  const ratings = data.criteria.filter((name) => rows[`score ${name}`]);
  const same = new Map();
  const key = (index) => `${rows.instruction[index]}\n${rows.input[index]}`.trim().toLowerCase();
  const others = (index) => {
    if (!same.size) {
      rows.instruction.forEach((_, other) => {
        if (rows.outcome[other] !== "rejected") same.set(key(other), [...(same.get(key(other)) ?? []), other]);
      });
    }
    return (same.get(key(index)) ?? []).filter((other) => rows.iteration[other] !== rows.iteration[index]);
  };
  const score = (name, index) => rows[`score ${name}`]?.[index] ?? null;
  const scoreText = (name, index) =>
    rows[`words ${name}`]?.[index] == null ? "" : score(name, index) === null ? "?" : String(score(name, index));
  const version = (index) => element("div", { class: "version" },
    element("h5", {}, `iteration ${rows.iteration[index]} `, tag(outcomeOf(rows, index), rows.outcome[index])),
    ...textField("output", rows.output[index]),
    element("p", { class: "note" }, ratings.map((name) => `${name} ${scoreText(name, index)}`).join(", ")));
  return {
    rows, size: rows.instruction?.length ?? 0,
    text: (index) => [rows.instruction[index], rows.input[index], rows.output[index], rows.why[index], rows.id[index]].join("\n"),
    columns: [
      { title: "t", sort: (index) => rows.iteration[index], show: (index) => String(rows.iteration[index]) },
      { title: "instruction", sort: (index) => rows.instruction[index], show: (index) => cell(rows.instruction[index] + (rows.input[index] ? `\n${rows.input[index]}` : "")) },
      { title: "output", class: "wide", sort: (index) => rows.output[index], show: (index) => cell(rows.output[index]) },
      ...ratings.map((name) => ({
        title: visible(name), class: "wide", sort: (index) => score(name, index) ?? -1, show: (index) => scoreText(name, index),
      })),
      { title: "outcome", sort: (index) => outcomeOf(rows, index), show: (index) => tag(rows.outcome[index], rows.outcome[index]) },
    ],
    filters: [
      { name: "iteration", values: (index) => String(rows.iteration[index]) },
      { name: "outcome", values: (index) => outcomeOf(rows, index) },
      { name: "quadrant", values: (index) => quadrantOf(rows, index) },
      ...ratings.map((name) => ({ name, range: (index) => score(name, index) })),
    ],
    detail: (index) => [
      element("h3", {}, `iteration ${rows.iteration[index]} `, tag(outcomeOf(rows, index), rows.outcome[index])),
      element("p", { class: "note" }, visible([rows.id[index], rows.why[index]].filter(Boolean).join(": "))),
      ...textField(rows.outcome[index] === "rejected" ? "text" : "instruction", rows.instruction[index]),
      ...(rows.input[index] ? textField("input", rows.input[index]) : []),
      ...(rows.thoughts[index] ? textField("thoughts", rows.thoughts[index]) : []),
      ...(rows.outcome[index] === "rejected" ? [] : textField("output", rows.output[index] || "(empty)", rows.finish[index] === "length" ? " (cut off)" : "")),
      ...ratings.filter((name) => rows[`words ${name}`][index] != null).flatMap((name) =>
        textField(`${visible(name)}: ${scoreText(name, index)}`, rows[`words ${name}`][index], " · the judge's words")),
      ...(others(index).length ? [element("h4", {}, "The same instruction in other iterations"),
        element("div", { class: "versions" }, ...others(index).slice(0, 12).map(version))] : []),
    ],
  };
}

function itemKind(rows, models) {
  const right = (value) => value === true || value === 1;
  const wrong = (value) => value === false || (typeof value === "number" && value <= 0);
  const last = (index) => rows.verdicts[index].findLast((value) => value !== null && value !== undefined);
  const change = (index) => {
    const [base, final] = [rows.verdicts[index][0], last(index)];
    if (base === null || base === undefined || final === undefined || rows.verdicts[index].length < 2) return "";
    if (right(base) !== right(final)) return right(final) ? "became right" : "became wrong";
    return right(final) ? "stayed right" : wrong(final) ? "stayed wrong" : "";
  };
  return {
    rows, size: rows.prompt?.length ?? 0,
    text: (index) => [rows.prompt[index], ...rows.answers[index].map((answer) => answer ?? "")].join("\n"),
    columns: [
      { title: "benchmark", class: "wide", sort: (index) => rows.benchmark[index], show: (index) => visible(rows.benchmark[index]) },
      { title: "item", sort: (index) => rows.item[index], show: (index) => String(rows.item[index]) },
      { title: "prompt", sort: (index) => rows.prompt[index], show: (index) => cell(rows.prompt[index]) },
      ...models.map((model, number) => ({
        title: model.replace("iteration ", "t = "), class: number && number < models.length - 1 ? "wide" : "", sort: (index) => Number(rows.verdicts[index][number] ?? -1),
        show: (index) => tag(verdictText(rows.verdicts[index][number]), right(rows.verdicts[index][number]) ? "right" : wrong(rows.verdicts[index][number]) ? "wrong" : ""),
      })),
    ],
    filters: [
      { name: "benchmark", values: (index) => rows.benchmark[index] },
      { name: "base to last", values: change },
      ...models.map((model, number) => ({ name: model, values: (index) => verdictText(rows.verdicts[index][number]) })),
    ],
    detail: (index) => [
      element("h3", {}, visible(`${rows.benchmark[index]}, item ${rows.item[index]}`)),
      ...textField("prompt", rows.prompt[index]),
      element("h4", {}, `answers${rows.score[index] ? `, right or wrong by the score “${visible(rows.score[index])}”` : ""}`),
      element("div", { class: "versions" }, ...models.map((model, number) => element("div", { class: "version" },
        element("h5", {}, `${model} `, tag(verdictText(rows.verdicts[index][number]), right(rows.verdicts[index][number]) ? "right" : wrong(rows.verdicts[index][number]) ? "wrong" : "")),
        ...(rows.answers[index][number] === null || rows.answers[index][number] === undefined
          ? [element("p", { class: "note" }, "The run has not kept the answer.")]
          : textField("", rows.answers[index][number] || "(empty)"))))),
    ],
  };
}

// A table with its form of filters. DataTables gets the rows of one page at a time and draws empty cells, which are
// filled with text; it never sees a text itself.
function makeBrowser(name, kind) {
  const form = document.querySelector(`form[data-kind=${name}]`);
  const state = { search: "", choices: {}, ranges: {} };
  const everyRow = [...Array(kind.size).keys()];
  let matching = everyRow;
  let texts = null;
  const inputs = {};

  function buildForm() {
    inputs.search = element("input", { type: "search", placeholder: "words in instruction, answer, reason" });
    form.append(element("label", {}, "search", inputs.search));
    inputs.search.addEventListener("input", () => { state.search = inputs.search.value; refresh(); });
    for (const filter of kind.filters) (filter.range ? addRange : addChoice)(filter);
    const reset = element("button", { type: "button" }, "Clear");
    reset.addEventListener("click", () => { Object.assign(state, { search: "", choices: {}, ranges: {} }); showState(); refresh(); });
    form.append(reset);
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  function addChoice(filter) {
    const counts = new Map();
    for (const index of everyRow) {
      const value = filter.values(index);
      if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    if (!counts.size) return;
    const select = element("select", {}, element("option", { value: "" }, "all"));
    for (const value of [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }))) {
      select.append(element("option", { value }, visible(`${value} (${counts.get(value).toLocaleString("en")})`)));
    }
    select.addEventListener("change", () => { state.choices[filter.name] = select.value; refresh(); });
    inputs[filter.name] = select;
    form.append(element("label", {}, filter.name, select));
  }

  function addRange(filter) {
    const ends = ["from", "to"].map((end) => {
      const input = element("input", { type: "number", min: 1, max: 10, step: "any", placeholder: end, "aria-label": `${filter.name} ${end}` });
      input.addEventListener("input", () => { state.ranges[filter.name] = ends.map((part) => part.value); refresh(); });
      return input;
    });
    inputs[filter.name] = ends;
    form.append(element("label", {}, visible(filter.name), element("span", { class: "pair" }, ...ends)));
  }

  function showState() {
    inputs.search.value = state.search;
    for (const filter of kind.filters) {
      const input = inputs[filter.name];
      if (Array.isArray(input)) input.forEach((end, number) => { end.value = state.ranges[filter.name]?.[number] ?? ""; });
      else if (input) input.value = state.choices[filter.name] ?? "";
    }
  }

  function applyFilters() {
    let result = everyRow;
    for (const filter of kind.filters) {
      const chosen = state.choices[filter.name];
      const [low, high] = state.ranges[filter.name] ?? ["", ""];
      if (filter.range && (low !== "" || high !== "")) {
        const [least, most] = [low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)];
        result = result.filter((index) => {
          const value = filter.range(index);
          return value !== null && value >= least && value <= most;
        });
      } else if (!filter.range && chosen) {
        result = result.filter((index) => filter.values(index) === chosen);
      }
    }
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) {
      texts ??= everyRow.map((index) => kind.text(index).toLowerCase());
      result = result.filter((index) => words.every((word) => texts[index].includes(word)));
    }
    return result;
  }

  function page(request, callback) {
    const [order] = request.order ?? [];
    if (order) {
      const by = kind.columns[order.column].sort;
      const sign = order.dir === "desc" ? -1 : 1;
      const keys = [];
      for (const index of matching) keys[index] = by(index);
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      matching = [...matching].sort((a, b) => sign * compare(keys[a], keys[b]) || a - b);
    }
    const rows = matching.slice(request.start, request.start + request.length).map((index) => ({ index }));
    callback({ draw: request.draw, recordsTotal: kind.size, recordsFiltered: matching.length, data: rows });
  }

  function refresh() {
    const begun = performance.now();
    matching = applyFilters();
    table.ajax.reload();
    window.isheepReport.filterMilliseconds = performance.now() - begun;
  }

  function open(row, index) {
    for (const other of row.parentElement.children) other.setAttribute("aria-selected", String(other === row));
    const detail = document.getElementById(`detail-${name}`);
    detail.replaceChildren(...kind.detail(index));
    detail.scrollTop = 0;
    if (detail.getBoundingClientRect().top > innerHeight * 0.8) detail.scrollIntoView({ block: "start" });
  }

  function prepareRow(row, { index }) {
    row.tabIndex = 0;
    row.addEventListener("click", () => open(row, index));
    row.addEventListener("keydown", (event) => {
      const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
      if (event.key === "Enter") open(row, index);
      else if (next) next.focus();
      else return;
      event.preventDefault();
    });
  }

  buildForm();
  const table = new window.DataTable(`#table-${name}`, {
    serverSide: true, searching: false, processing: false, autoWidth: false, order: [], pageLength: 25,
    lengthMenu: [10, 25, 50, 100], ajax: page, createdRow: prepareRow,
    columns: kind.columns.map((column) => ({
      title: column.title, className: column.class ?? "", data: null, render: () => "",
      createdCell: (node, _, { index }) => node.replaceChildren(column.show(index)),
    })),
    language: { info: "_START_ to _END_ of _TOTAL_", infoEmpty: "no row", infoFiltered: "(of _MAX_)", lengthMenu: "_MENU_ rows", emptyTable: "no row", zeroRecords: "no row" },
  });
  return {
    state, refresh,
    restore(saved) { Object.assign(state, saved); showState(); refresh(); },
    prepare() { texts ??= everyRow.map((index) => kind.text(index).toLowerCase()); },
  };
}

function showTab(name) {
  for (const other of ["generated", "items"]) {
    document.getElementById(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    document.getElementById(`panel-${other}`).hidden = other !== name;
  }
  window.isheepReport.tab = name;
}

async function openBrowser() {
  const store = await unpack(document.getElementById("rows").textContent);
  const kinds = { generated: generatedKind(store.generated), items: itemKind(store.items, store.models) };
  document.getElementById("browser").hidden = false;
  for (const [name, kind] of Object.entries(kinds)) {
    const button = document.getElementById(`tab-${name}`);
    button.addEventListener("click", () => showTab(name));
    button.hidden = kind.size === 0;
    if (kind.size) window.isheepReport.browsers[name] = makeBrowser(name, kind);
  }
  if (!Object.keys(window.isheepReport.browsers).length) document.getElementById("browser").hidden = true;
  showTab(kinds.generated.size || !kinds.items.size ? "generated" : "items");
}

// --- a run that is under way

const sessionKey = `isheep-report ${location.pathname}`;

function isIdle() {
  const focused = document.activeElement;
  return document.visibilityState === "visible" && getSelection().isCollapsed && !focused?.matches("input, select");
}

function reloadWhenIdle() {
  if (!isIdle()) return setTimeout(reloadWhenIdle, 3000);
  const { browsers, tab } = window.isheepReport;
  const states = Object.fromEntries(Object.entries(browsers).map(([name, browser]) => [name, browser.state]));
  remember(sessionKey, JSON.stringify({ scroll: scrollY, tab, states }), "sessionStorage");
  location.reload();
}

function restoreView() {
  const saved = JSON.parse(recall(sessionKey, "sessionStorage") ?? "null");
  remember(sessionKey, null, "sessionStorage");
  if (!saved) return;
  for (const [name, state] of Object.entries(saved.states)) window.isheepReport.browsers[name]?.restore(state);
  if (saved.tab) showTab(saved.tab);
  scrollTo({ top: saved.scroll, behavior: "instant" });
}

// --- start

window.isheepReport = { browsers: {}, tab: "generated", isReady: false, reload: reloadWhenIdle };
const savedScheme = recall("isheep-scheme");
if (savedScheme) root.classList.add(savedScheme);
document.getElementById("scheme").addEventListener("click", () => setScheme(isDark() ? "light" : "dark"));
darkQuery.addEventListener("change", () => drawCharts());
if (data.underWay) {
  document.getElementById("written").textContent = new Date(data.written * 1000).toLocaleString();
  setTimeout(reloadWhenIdle, data.refreshSeconds * 1000);
}
await Promise.all([drawCharts(), openBrowser()]);
restoreView();
window.isheepReport.readyMilliseconds = performance.now();
window.isheepReport.isReady = true;
// Otherwise the first search would wait for it.
setTimeout(() => Object.values(window.isheepReport.browsers).forEach((browser) => browser.prepare()));
