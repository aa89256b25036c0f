// Keys for what the page's forms do without them. A digit scores the marked line, 0 is 10; Enter saves.
"use strict";
const form = document.querySelector("form");
const lines = [...document.querySelectorAll("fieldset")];
let now = lines.findIndex((line) => !line.querySelector(":checked"));

function mark(place) {
  now = place;
  lines.forEach((line, n) => line.classList.toggle("now", n === now));
}

function score(key) {
  if (now < 0) now = 0; // all have a score: a digit starts over
  lines[now].querySelector(`[value="${key === "0" ? 10 : key}"]`).checked = true;
  mark(now + 1 < lines.length ? now + 1 : -1);
}

mark(now);
lines.forEach((line, n) => line.addEventListener("change", () => mark(n + 1 < lines.length ? n + 1 : -1)));
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
