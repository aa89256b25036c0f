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
