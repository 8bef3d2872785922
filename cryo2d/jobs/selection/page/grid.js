// The averages as tiles: drawn when they come into view, sorted, filtered, clicked, walked over.

import { compare, EXTRA_ORDERS, MEASURES, reasoned, whole, written } from "./measures.js";

const RESOLUTION = MEASURES.find(measure => measure.name === "resolution");
const ESS = MEASURES.find(measure => measure.name === "ess");
const SCORE = MEASURES.find(measure => measure.name === "score");
const DOUBTFUL = 0.5;

function part(tag, name, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

export class Grid extends EventTarget {
  constructor(node, choice) {
    super();
    this.node = node;
    this.choice = choice;
    this.tiles = new Map();
    this.stale = new Set();
    this.inView = new Set();
    this.anchor = null;
    this.show = "all";
    this.order = { measure: MEASURES[0], reversed: false };
    this.watch = new IntersectionObserver(seen => this.#look(seen), { rootMargin: "500px" });
    choice.addEventListener("change", () => this.mark());
    node.addEventListener("click", event => this.#click(event));
    node.addEventListener("dblclick", event => this.#open(event));
    node.addEventListener("contextmenu", event => this.#menu(event));
    node.addEventListener("keydown", event => this.#key(event));
    node.addEventListener("focusin", event => this.#focus(event.target.closest("figure")));
    window.addEventListener("beforeprint", () => this.drawAll());
  }

  // Takes up new numbers and pictures; tiles keep their places until they are sorted again.
  update(classes, sheet) {
    this.classes = classes;
    this.sheet = sheet;
    const first = !this.tiles.size;
    for (const entry of classes) {
      if (!this.tiles.has(entry.class)) this.#build(entry.class);
      this.#write(entry);
      this.stale.add(entry.class);
    }
    if (first) this.arrange();
    else for (const number of this.inView) this.#draw(number);
  }

  #build(number) {
    const tile = part("figure", "tile");
    tile.dataset.number = number;
    tile.setAttribute("role", "option");
    tile.tabIndex = -1;
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    for (const name of ["count", "number", "resolution", "ess", "score"]) {
      caption.append(part("span", name));
    }
    tile.append(canvas, part("span", "tick", "\u2713"), caption);
    this.tiles.set(number, tile);
    this.watch.observe(tile);
  }

  #write(entry) {
    const tile = this.tiles.get(entry.class);
    const texts = {
      count: whole(entry.count),
      number: `#${entry.class}`,
      resolution: entry.count ? written(RESOLUTION, entry.resolution) : "empty",
      ess: entry.ess === null ? "" : `ESS ${written(ESS, entry.ess)}`,
      score: entry.score === undefined ? "" : `score ${written(SCORE, entry.score)}`,
    };
    for (const [name, text] of Object.entries(texts)) {
      tile.querySelector(`.${name}`).textContent = text;
    }
    tile.classList.toggle("empty", entry.count === 0);
    tile.classList.toggle("doubtful", entry.score < DOUBTFUL);
    tile.title = reasoned(entry);
    tile.setAttribute("aria-label", `class ${entry.class}, ${texts.count} particles`);
  }

  #look(seen) {
    for (const { target, isIntersecting } of seen) {
      const number = Number(target.dataset.number);
      isIntersecting ? this.inView.add(number) : this.inView.delete(number);
      if (isIntersecting) this.#draw(number);
    }
  }

  #draw(number) {
    if (!this.stale.delete(number)) return;
    const canvas = this.tiles.get(number).querySelector("canvas");
    this.paint(canvas, number);
  }

  paint(canvas, number) {
    const { image, tile, columns } = this.sheet;
    const k = number - 1;
    canvas.width = canvas.height = tile;
    const left = (k % columns) * tile, top = Math.floor(k / columns) * tile;
    canvas.getContext("2d").drawImage(image, left, top, tile, tile, 0, 0, tile, tile);
  }

  drawAll() {
    for (const number of [...this.stale]) this.#draw(number);
  }

  // Numbers of the tiles in reading order.
  get shown() {
    return [...this.node.children].map(tile => Number(tile.dataset.number));
  }

  // Puts the tiles into order and leaves out those that are not to be shown.
  arrange() {
    const { measure, reversed } = this.order;
    const numbers = [...this.classes]
      .sort((a, b) => (reversed ? -1 : 1) * compare(measure, a, b) || a.class - b.class)
      .map(entry => entry.class)
      .filter(n => this.show === "all" || this.choice.has(n) === (this.show === "selected"));
    this.node.replaceChildren(...numbers.map(number => this.tiles.get(number)));
    this.mark();
    if (!this.node.querySelector('[tabindex="0"]')) this.#focus(this.node.firstElementChild);
    this.dispatchEvent(new Event("arranged"));
  }

  mark() {
    for (const [number, tile] of this.tiles) {
      const selected = this.choice.has(number);
      tile.classList.toggle("selected", selected);
      tile.setAttribute("aria-selected", selected);
    }
  }

  #numberOf(event) {
    const tile = event.target.closest("figure");
    return tile ? Number(tile.dataset.number) : null;
  }

  #click(event) {
    const number = this.#numberOf(event);
    if (number === null) return;
    if (event.shiftKey && this.anchor !== null) this.range(this.anchor, number);
    else {
      this.choice.toggle(number);
      this.anchor = number;
    }
  }

  // All tiles between two become what the first one is.
  range(from, to) {
    const shown = this.shown;
    const [a, b] = [shown.indexOf(from), shown.indexOf(to)].sort((x, y) => x - y);
    const between = a < 0 ? [to] : shown.slice(a, b + 1);
    this.choice.has(from) ? this.choice.add(between) : this.choice.remove(between);
  }

  #open(event) {
    const number = this.#numberOf(event);
    if (number === null) return;
    // its two clicks have changed nothing
    if (!event.shiftKey) this.choice.forget(2);
    this.dispatchEvent(new CustomEvent("open", { detail: number }));
  }

  #menu(event) {
    const number = this.#numberOf(event);
    if (number === null) return;
    event.preventDefault();
    const place = { x: event.clientX, y: event.clientY };
    const show = () => this.dispatchEvent(new CustomEvent("menu", { detail: { number, ...place } }));
    // where the event comes with the press, letting go would dismiss what is shown at once
    if (event.buttons) window.addEventListener("pointerup", show, { once: true });
    else show();
  }

  #focus(tile) {
    if (!tile) return;
    for (const other of this.node.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    tile.tabIndex = 0;
  }

  go(number) {
    const tile = this.tiles.get(number);
    this.#focus(tile);
    tile.focus();
    tile.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const tile = event.target.closest("figure");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const tiles = [...this.node.children];
    const at = tiles.indexOf(tile);
    const row = tiles.filter(other => other.offsetTop === tiles[0].offsetTop).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row,
                    Home: -at, End: tiles.length - 1 - at };
    const number = Number(tile.dataset.number);
    if (event.key in steps) {
      const next = tiles[at + steps[event.key]];
      if (next) this.go(Number(next.dataset.number));
    } else if (event.key === " ") {
      if (event.shiftKey && this.anchor !== null) this.range(this.anchor, number);
      else {
        this.choice.toggle(number);
        this.anchor = number;
      }
    } else if (event.key === "Enter") {
      this.dispatchEvent(new CustomEvent("open", { detail: number }));
    } else if (event.key === "m" || event.key === "ContextMenu") {
      const { left, bottom } = tile.getBoundingClientRect();
      this.dispatchEvent(new CustomEvent("menu", { detail: { number, x: left, y: bottom } }));
    } else return;
    event.preventDefault();
  }
}

export function orders(classes) {
  const known = MEASURES.filter(measure => classes.some(entry => entry[measure.name] != null));
  return [...known, ...EXTRA_ORDERS.filter(({ name }) => classes.some(entry => name in entry))];
}
