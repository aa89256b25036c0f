// --- the browser of examples

async function unpack(text) {
  const bytes = Uint8Array.fromBase64?.(text) ?? bytesOf(atob(text));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function bytesOf(signs) {
  const bytes = new Uint8Array(signs.length);
  for (let index = 0; index < signs.length; index += 1) bytes[index] = signs.charCodeAt(index);
  return bytes;
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
    rows, size: rows.instruction?.length ?? 0, searched: "instruction, answer, reason",
    text: (index) => [rows.instruction[index], rows.input[index], rows.output[index], rows.why[index], rows.id[index]].join("\n"),
    columns: [
      { title: "iteration", sort: (index) => rows.iteration[index], show: (index) => String(rows.iteration[index]) },
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
    rows, size: rows.prompt?.length ?? 0, searched: "prompt, answers, reason",
    text: (index) => [rows.prompt[index], ...rows.answers[index].map((answer) => answer ?? ""), ...(rows.why?.[index] ?? [])].join("\n"),
    columns: [
      { title: "benchmark", class: "wide", sort: (index) => rows.benchmark[index], show: (index) => visible(rows.benchmark[index]) },
      { title: "item", sort: (index) => rows.item[index], show: (index) => String(rows.item[index]) },
      { title: "prompt", sort: (index) => rows.prompt[index], show: (index) => cell(rows.prompt[index]) },
      ...models.map((model, number) => ({
        title: model, class: number && number < models.length - 1 ? "wide" : "", sort: (index) => Number(rows.verdicts[index][number] ?? -1),
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
          : textField("", rows.answers[index][number] || "(empty)")),
        ...(rows.why?.[index]?.[number] ? textField("why it is not right", rows.why[index][number]) : [])))),
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
  const choices = [];
  const inputs = {};
  const detail = document.getElementById(`detail-${name}`);
  const hint = [...detail.childNodes];
  let opened = null;

  function buildForm() {
    inputs.search = element("input", { type: "search", placeholder: kind.searched, title: `words in ${kind.searched}` });
    form.append(element("label", { class: "search" }, "search", inputs.search));
    inputs.search.addEventListener("input", () => { state.search = inputs.search.value; refresh(); });
    for (const filter of kind.filters) (filter.range ? addRange : addChoice)(filter);
    const reset = element("button", { type: "button" }, "Clear");
    reset.addEventListener("click", () => { Object.assign(state, { search: "", choices: {}, ranges: {} }); showState(); refresh(); });
    form.append(reset);
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // A value of each row, as its number among the sorted values, from 1 on; 0: a row without one.
  function addChoice(filter) {
    const byRow = everyRow.map(filter.values);
    const values = [...new Set(byRow)].filter(Boolean).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    if (!values.length) return;
    const codes = new Map(values.map((value, number) => [value, number + 1]));
    const options = ["", ...values].map((value) => element("option", { value }));
    const select = element("select", {}, ...options);
    choices.push({ name: filter.name, codes, options, codeOfRow: Uint32Array.from(byRow, (value) => codes.get(value) ?? 0) });
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

  // Functions that say whether a row passes the search and the ranges.
  function* otherRules() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) {
      prepare();
      yield (index) => words.every((word) => texts[index].includes(word));
    }
    for (const filter of kind.filters.filter((entry) => entry.range)) {
      const [low, high] = state.ranges[filter.name] ?? ["", ""];
      if (low === "" && high === "") continue;
      const [least, most] = [low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)];
      yield (index) => {
        const value = filter.range(index);
        return value !== null && value >= least && value <= most;
      };
    }
  }

  // Return the rows that pass all filters. An option says how many rows it would show beside the other filters.
  function applyFilters() {
    const rules = [...otherRules()];
    const chosen = choices.map(({ name, codes }) => codes.get(state.choices[name]) ?? 0);
    const counts = choices.map(({ options }) => new Uint32Array(options.length));
    const result = [];
    for (const index of everyRow) {
      if (!rules.every((rule) => rule(index))) continue;
      let numRefusing = 0;
      let refusing = -1;
      for (let number = 0; number < choices.length; number += 1) {
        if (chosen[number] && choices[number].codeOfRow[index] !== chosen[number]) {
          numRefusing += 1;
          refusing = number;
        }
      }
      if (!numRefusing) result.push(index);
      for (let number = 0; number < choices.length; number += 1) {
        if (!numRefusing || (numRefusing === 1 && refusing === number)) {
          counts[number][0] += 1;
          const code = choices[number].codeOfRow[index];
          if (code) counts[number][code] += 1;
        }
      }
    }
    choices.forEach(({ options }, number) => options.forEach((option, code) => {
      option.textContent = visible(`${option.value || "all"} (${counts[number][code].toLocaleString("en")})`);
    }));
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
    if (opened !== null && !matching.includes(opened)) {
      opened = null;
      detail.replaceChildren(...hint);
    }
    window.isheepReport.filterMilliseconds = performance.now() - begun;
  }

  function open(row, index) {
    opened = index;
    for (const other of row.parentElement.children) other.setAttribute("aria-selected", String(other === row));
    detail.replaceChildren(...kind.detail(index));
    detail.scrollTop = 0;
    if (detail.getBoundingClientRect().top > innerHeight * 0.8) detail.scrollIntoView({ block: "start" });
  }

  function prepareRow(row, { index }) {
    row.tabIndex = 0;
    row.setAttribute("aria-selected", String(index === opened));
    row.addEventListener("click", () => open(row, index));
    row.addEventListener("keydown", (event) => {
      const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
      if (event.key === "Enter") open(row, index);
      else if (next) next.focus();
      else return;
      event.preventDefault();
    });
  }

  // Lower case of all texts takes a while, which the first search would wait for.
  function prepare() { texts ??= everyRow.map((index) => kind.text(index).toLowerCase()); }

  buildForm();
  applyFilters();
  const table = new window.DataTable(`#table-${name}`, {
    serverSide: true, searching: false, processing: false, autoWidth: false, order: [], pageLength: 25,
    lengthMenu: [10, 25, 50, 100], ajax: page, createdRow: prepareRow,
    columns: kind.columns.map((column) => ({
      title: column.title, className: column.class ?? "", data: null, render: () => "",
      createdCell: (node, _, { index }) => node.replaceChildren(column.show(index)),
    })),
    language: { info: "_START_ to _END_ of _TOTAL_", infoEmpty: "no row", infoFiltered: "(of _MAX_)", lengthMenu: "_MENU_ rows", emptyTable: "no row", zeroRecords: "no row" },
  });
  return { state, prepare, restore(saved) { Object.assign(state, saved); showState(); refresh(); } };
}

// Show the rows of a kind. Their table is made when they are shown for the first time.
function showTab(name) {
  for (const other of Object.keys(kinds)) {
    document.getElementById(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    document.getElementById(`panel-${other}`).hidden = other !== name;
  }
  window.isheepReport.tab = name;
  return browserOf(name);
}

let kinds = {};

function browserOf(name) {
  const { browsers } = window.isheepReport;
  if (!browsers[name]) {
    browsers[name] = makeBrowser(name, kinds[name]);
    // Not at once: the page is shown first.
    setTimeout(browsers[name].prepare);
  }
  return browsers[name];
}

async function openBrowser() {
  const store = await unpack(document.getElementById("rows").textContent);
  kinds = { generated: generatedKind(store.generated), items: itemKind(store.items, store.models) };
  for (const [name, kind] of Object.entries(kinds)) {
    const button = document.getElementById(`tab-${name}`);
    button.addEventListener("click", () => showTab(name));
    button.hidden = kind.size === 0;
  }
  const first = ["generated", "items"].find((name) => kinds[name].size);
  document.getElementById("browser").hidden = !first;
  if (first) showTab(first);
}
