// Brings the parts of the page together: reads the classes, follows the run, finishes.

import { Choice } from "./choice.js";
import { Grid, orders } from "./grid.js";
import { plural, whole } from "./measures.js";
import { Menu } from "./menu.js";
import { Thresholds } from "./thresholds.js";
import { Zoom } from "./zoom.js";

const FOLLOW = 3000, IDLE = 15000;
const part = id => document.getElementById(id);
// the secret belongs into no bookmark
history.replaceState(null, "", location.pathname);

let data, choice, grid, thresholds, menu, zoom, timer;

async function read(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// One object per class instead of one list per measure.
function entries({ measures, similarity, reasons }) {
  return measures.class.map((number, k) => {
    const entry = { similarity: similarity[k], reason: reasons[k] };
    for (const [name, values] of Object.entries(measures)) entry[name] = values[k];
    entry.count ??= 0;
    // an empty class shows no view
    if (entry.superclass === 0) entry.superclass = null;
    return entry;
  });
}

async function load() {
  const found = await read("classes.json");
  const image = new Image();
  image.src = `averages.png?version=${encodeURIComponent(found.version)}`;
  await image.decode();
  data = { ...found, classes: entries(found) };
  if (!choice) start(found);
  grid.update(data.classes, { image, tile: found.tile, columns: found.columns });
  thresholds.update(data.classes);
  tellStage();
  tally();
}

function start(found) {
  choice = new Choice(found.choice);
  grid = new Grid(part("grid"), choice);
  thresholds = new Thresholds(part("thresholds"), choice);
  menu = new Menu(part("menu"), choice);
  zoom = new Zoom(part("zoom"), grid, choice);
  const folders = found.run.split("/").filter(Boolean);
  part("run").textContent = folders.slice(-2).join("/");
  part("run").title = found.run;
  document.title = `Select classes: ${folders.pop()}`;
  choice.addEventListener("change", () => {
    if (grid.show !== "all") grid.arrange();
    tally();
  });
  choice.addEventListener("adopted", () => tell("The selection was changed on another page; "
    + "this page goes on from there. Undo brings yours back."));
  choice.addEventListener("refused", event => tell(event.detail));
  choice.addEventListener("lost", lost);
  grid.addEventListener("open", event => zoom.open(event.detail, data));
  grid.addEventListener("menu", ({ detail }) => {
    const entry = data.classes[detail.number - 1];
    menu.open(entry, data.classes, detail, () => zoom.open(detail.number, data));
  });
  grid.addEventListener("arranged", () => { part("nothing").hidden = grid.shown.length > 0; });
  bindTools();
}

function bindTools() {
  const numbers = () => data.classes.map(entry => entry.class);
  const sort = part("sort"), known = orders(data.classes);
  sort.replaceChildren(...known.map(({ name, label }) => new Option(label, name)));
  const arrange = () => {
    const measure = known.find(({ name }) => name === sort.value);
    const reversed = part("direction").dataset.reversed === "true";
    grid.order = { measure, reversed };
    part("direction").textContent = (measure.better > 0) === reversed ? "\u2191" : "\u2193";
    if (grid.classes) grid.arrange();
  };
  sort.addEventListener("change", () => { part("direction").dataset.reversed = false; arrange(); });
  const work = {
    direction: ({ dataset }) => {
      dataset.reversed = dataset.reversed !== "true";
      arrange();
    },
    all: () => choice.replace(numbers()),
    none: () => choice.replace([]),
    invert: () => choice.replace(numbers().filter(number => !choice.has(number))),
    undo: () => choice.undo(),
    redo: () => choice.redo(),
    "show-thresholds": toggleThresholds,
    "show-help": () => part("help").showModal(),
    "help-close": () => part("help").close(),
    dark: () => setTheme(document.documentElement.dataset.theme !== "dark"),
    finish,
  };
  for (const [id, act] of Object.entries(work)) {
    part(id).addEventListener("click", event => act(event.currentTarget));
  }
  part("filter").addEventListener("click", event => {
    if (event.target.dataset.show) show(event.target.dataset.show);
  });
  const look = document.documentElement.style;
  part("size").addEventListener("input", e => look.setProperty("--size", `${e.target.value}px`));
  part("contrast").addEventListener("input", e => look.setProperty("--contrast", e.target.value));
  document.addEventListener("keydown", key);
  window.addEventListener("pagehide", () => choice.leave());
  arrange();
}

function show(which) {
  grid.show = which;
  for (const button of part("filter").children) {
    button.setAttribute("aria-checked", button.dataset.show === which);
  }
  grid.arrange();
}

function toggleThresholds() {
  part("thresholds").hidden = !part("thresholds").hidden;
  part("show-thresholds").setAttribute("aria-expanded", !part("thresholds").hidden);
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function key(event) {
  if (document.querySelector("dialog[open]") || event.altKey) return;
  if (event.target.matches("select, input:not([type=range])")) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    event.shiftKey ? choice.redo() : choice.undo();
    return;
  }
  const button = { a: "all", n: "none", i: "invert", u: "undo", r: "redo", t: "show-thresholds",
                   "?": "show-help", "/": "show-help" }[event.key];
  if (button) {
    event.preventDefault();
    part(button).click();
  } else if (event.key.startsWith("Arrow") && event.target === document.body) {
    part("grid").querySelector('[tabindex="0"]')?.focus();
  }
}

function tally() {
  const chosen = data.classes.filter(entry => choice.has(entry.class));
  const sum = list => list.reduce((total, entry) => total + entry.count, 0);
  const kept = sum(chosen), total = sum(data.classes);
  const share = total ? (100 * kept) / total : 0;
  part("tally-classes").textContent = whole(chosen.length);
  part("tally-of-classes").textContent = `of ${plural(data.classes.length, "class")}`;
  part("tally-particles").textContent = whole(kept);
  part("tally-of-particles").textContent =
    `of ${plural(total, "particle")} (${share.toFixed(1)} %)`;
  part("tally-bar").firstElementChild.style.width = `${share}%`;
  part("undo").disabled = !choice.past.length;
  part("redo").disabled = !choice.future.length;
  part("finish").disabled = !data.finished || !chosen.length;
  part("finish").title = data.finished ? "Write the files and end" : "When the run is finished";
}

function tellStage() {
  part("stage").hidden = data.finished;
  const iteration = data.iteration ? `, iteration ${data.iteration}` : "";
  part("stage").textContent = `not finished${iteration}`;
}

function tell(text) {
  part("notice").textContent = text;
  part("notice").hidden = !text;
}

function lost() {
  tell("The program has ended or cannot be reached. What was selected before is kept: start it "
    + `again with  cryo2d select run=${data.run}`);
}

// Asks now and then whether the run has gone on, and whether the program is still there.
async function follow() {
  clearTimeout(timer);
  try {
    const state = await read("state.json");
    if (choice.dirty) await choice.save();
    if (state.version !== data.version) await load();
    if (state.revision > choice.revision && !choice.saving) {
      choice.adopt((await read("classes.json")).choice);
    }
    if (part("notice").dataset.lost) tell("");
    delete part("notice").dataset.lost;
  } catch {
    part("notice").dataset.lost = true;
    lost();
  }
  clearTimeout(timer);
  if (part("end").hidden) timer = setTimeout(follow, data.finished ? IDLE : FOLLOW);
}

async function finish() {
  part("finish").disabled = true;
  part("finish").textContent = "Writing \u2026";
  let answer;
  try {
    answer = await choice.finish();
  } catch {
    lost();
    return;
  }
  if (answer.status !== 200) {
    if (answer.status === 409) choice.adopt(answer.choice);
    else tell(answer.error);
    part("finish").textContent = "Finish";
    tally();
    return;
  }
  end(answer);
}

function end(written) {
  clearTimeout(timer);
  window.removeEventListener("focus", follow);
  for (const node of [part("head"), part("grid"), part("nothing")]) node.hidden = true;
  part("end").hidden = false;
  part("end-numbers").textContent = `${plural(written.classes, "class")} of ${written.num_classes}, `
    + `${plural(written.selected, "particle")} of ${whole(written.total)}`;
  part("end-folder").textContent = written.folder;
  part("end-files").replaceChildren(...written.files.map(name => {
    const item = document.createElement("li");
    item.textContent = name;
    return item;
  }));
  part("end-again").textContent = `cryo2d data.path=${written.folder}/particles_selected.star`;
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
await load();
timer = setTimeout(follow, FOLLOW);
window.addEventListener("focus", follow);
