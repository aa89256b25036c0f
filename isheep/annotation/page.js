// Keyboard shortcuts; the forms also work without them. A digit scores the active line, 0 stands for 10; Enter saves.
"use strict";
const form = document.querySelector("form");
const lines = [...document.querySelectorAll("fieldset")];
let active = lines.findIndex((line) => !line.querySelector(":checked"));

function activate(index) {
  active = index;
  lines.forEach((line, n) => line.classList.toggle("active", n === active));
}

function score(key) {
  // If every line has a score, a digit starts again at the first line.
  if (active < 0) active = 0;
  lines[active].querySelector(`[value="${key === "0" ? 10 : key}"]`).checked = true;
  activate(active + 1 < lines.length ? active + 1 : -1);
}

activate(active);
lines.forEach((line, n) => line.addEventListener("change", () => activate(n + 1 < lines.length ? n + 1 : -1)));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (/^[0-9]$/.test(event.key) && lines.length) score(event.key);
  else if (button) button.click();
  else if (event.key === "Enter" && form && lines.length && !event.target.closest("a, button"))
    form.requestSubmit(form.querySelector("button.main"));
  else return;
  event.preventDefault();
});
