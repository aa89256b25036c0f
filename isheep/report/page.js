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
  const heights = Object.fromEntries(data.figures.map(({ name }) => [name, document.getElementById(name).offsetHeight]));
  remember(sessionKey, JSON.stringify({ scroll: scrollY, tab, states, heights }), "sessionStorage");
  location.reload();
}

function savedView() {
  const saved = JSON.parse(recall(sessionKey, "sessionStorage") ?? "null");
  remember(sessionKey, null, "sessionStorage");
  return saved;
}

// Filters and the place on the page. Figures that are not drawn yet are as high as they were.
function restoreView(saved) {
  for (const [name, height] of Object.entries(saved.heights)) {
    const figure = document.getElementById(name);
    if (figure) figure.style.minHeight = `${height}px`;
  }
  for (const [name, state] of Object.entries(saved.states)) if (kinds[name]?.size) browserOf(name).restore(state);
  if (kinds[saved.tab]?.size) showTab(saved.tab);
  scrollTo({ top: saved.scroll, behavior: "instant" });
}

// --- start

window.isheepReport = { browsers: {}, tab: null, isReady: false, isDrawn: false, reload: reloadWhenIdle };
const savedScheme = recall("isheep-scheme");
if (savedScheme) root.classList.add(savedScheme);
document.getElementById("scheme").addEventListener("click", () => setScheme(isDark() ? "light" : "dark"));
darkQuery.addEventListener("change", () => drawCharts());
if (data.underWay) {
  document.getElementById("written").textContent = new Date(data.written * 1000).toLocaleString();
  setTimeout(reloadWhenIdle, data.refreshSeconds * 1000);
}
await openBrowser();
const saved = savedView();
if (saved) restoreView(saved);
await drawCharts();
window.isheepReport.readyMilliseconds = performance.now();
window.isheepReport.isReady = true;
