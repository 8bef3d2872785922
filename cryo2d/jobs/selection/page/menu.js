// The menu of a class: everything better or worse than it, by any measure.

import { alike, MEASURES, plural, reaches, written } from "./measures.js";

export class Menu {
  constructor(node, choice) {
    this.node = node;
    this.choice = choice;
    node.addEventListener("keydown", event => this.#key(event));
  }

  open(entry, classes, { x, y }, look) {
    this.node.replaceChildren();
    const title = document.createElement("h3");
    title.textContent = `Class ${entry.class}`;
    this.node.append(title);
    const selected = this.choice.has(entry.class);
    this.#item(this.node, selected ? "Deselect" : "Select", () => this.choice.toggle(entry.class));
    this.#item(this.node, "Look at its particles", look);
    const same = alike(entry, classes);
    if (same.length > 1) {
      const names = same.map(number => `#${number}`).join(", ");
      this.#item(this.node, `Select all ${same.length} classes of its view`,
                 () => this.choice.add(same)).title = names;
    }
    const known = MEASURES.filter(measure => entry[measure.name] != null);
    for (const [verb, act] of [["Select", "add"], ["Deselect", "remove"]]) {
      for (const [word, better] of [["better", true], ["worse", false]]) {
        this.#row(`${verb} ${word}`, act, better, known, entry, classes);
      }
    }
    this.node.showPopover();
    const { width, height } = this.node.getBoundingClientRect();
    this.node.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 4))}px`;
    this.node.style.top = `${Math.max(4, Math.min(y, innerHeight - height - 4))}px`;
    this.node.querySelector("button").focus();
  }

  #row(text, act, better, known, entry, classes) {
    const row = document.createElement("div");
    row.className = "menu-row";
    const label = document.createElement("span");
    label.textContent = text;
    row.append(label);
    for (const measure of known) {
      const value = entry[measure.name];
      const numbers = classes
        .filter(other => better
          ? reaches(measure, other, value)
          : other[measure.name] === value || !reaches(measure, other, value))
        .map(other => other.class);
      const sign = (measure.better > 0) === better ? "\u2265" : "\u2264";
      const button = this.#item(row, measure.label, () => this.choice[act](numbers));
      const limit = written(measure, value);
      button.title = `${plural(numbers.length, "class")} with ${measure.label} ${sign} ${limit}`;
      Object.assign(button.dataset, { act, measure: measure.name, better });
    }
    this.node.append(row);
  }

  #item(parent, text, work) {
    const button = document.createElement("button");
    button.textContent = text;
    button.setAttribute("role", "menuitem");
    button.addEventListener("click", () => {
      this.node.hidePopover();
      work();
    });
    parent.append(button);
    return button;
  }

  #key(event) {
    const buttons = [...this.node.querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = buttons.indexOf(document.activeElement) + step;
    buttons[(at + buttons.length) % buttons.length].focus();
  }
}
