"use strict";
// Tables sort by any column; the first number of a cell counts, else its text. Sums at the foot stay where they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [row, value(row.cells[column].textContent)]);
      rows.sort((a, b) => (up ? 1 : -1) * compare(a[1], b[1]));
      body.append(...rows.map(([row]) => row));
    });
  });
}
function value(text) {
  const number = text.trim().replace(/(\d),(?=\d{3})/g, "$1").match(/^[+-]?\d+(\.\d+)?/);
  return number ? Number(number[0]) * (/^\S+ min$/.test(text.trim()) ? 60 : 1) : text.trim();
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, "en", { numeric: true });
}
// The images of one network, or of one arm; at first those of the first network. Without this script all are shown.
for (const form of document.querySelectorAll("form.controls")) {
  const cases = document.getElementById(form.dataset.for);
  const [model, arm] = ["model", "arm"].map((name) => form.querySelector(`[data-filter="${name}"]`));
  const apply = () => {
    let count = 0;
    for (const each of cases.querySelectorAll(".case")) {
      each.hidden = model.value !== "" && each.dataset.model !== model.value;
      count += each.hidden ? 0 : 1;
    }
    for (const each of cases.querySelectorAll(".arm")) each.hidden = arm.value !== "" && each.dataset.arm !== arm.value;
    form.querySelector("output").textContent = `${count} ${count === 1 ? "image" : "images"}`;
  };
  if (model.options.length > 2) model.selectedIndex = 1;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
// The slider of a gallery: what every image is taken for at one eps. Without this script each says where it fails first.
for (const form of document.querySelectorAll("form.slider")) {
  const slider = form.querySelector("input"), output = form.querySelector("output");
  const epsilons = JSON.parse(form.dataset.eps);
  const tiles = [...document.getElementById(form.dataset.for).children].map((tile) => [tile, JSON.parse(tile.dataset.steps)]);
  const apply = () => {
    let wrong = 0;
    for (const [tile, steps] of tiles) {
      const taken = steps[slider.value], word = tile.querySelector(".arrow"), name = tile.querySelector(".taken b");
      wrong += taken ? 1 : 0;
      tile.classList.toggle("wrong", Boolean(taken));
      word.textContent = taken ? "taken for" : "still right";
      name.textContent = taken;
    }
    const eps = epsilons[slider.value];
    slider.setAttribute("aria-valuetext", `eps ${eps}`);
    output.textContent = `${eps ? `eps ${eps}` : "no attack"}: ${wrong} of these ${tiles.length} wrong`;
  };
  slider.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
// The contents are open beside the page, and a menu above it where that is narrow; what is printed is unfolded.
const wide = matchMedia("(min-width: 76rem)"), menu = document.querySelector("nav details");
const unfold = () => { menu.open = wide.matches; };
wide.addEventListener("change", unfold);
unfold();
menu.addEventListener("click", (event) => { if (event.target.matches("a") && !wide.matches) menu.open = false; });
addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((each) => { each.open = true; }));
