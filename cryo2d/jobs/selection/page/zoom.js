// One class looked at closely: average, particles, ring correlation, picks.

import { drawFrc, drawPicks, drawScale } from "./curves.js";
import { alike, MEASURES, plural, reasoned, written } from "./measures.js";

const LINE = 12;

function loaded(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = address;
  });
}

export class Zoom {
  constructor(dialog, grid, choice) {
    this.dialog = dialog;
    this.grid = grid;
    this.choice = choice;
    this.number = null;
    const on = (id, event, work) => this.#part(id).addEventListener(event, work);
    on("zoom-before", "click", () => this.step(-1));
    on("zoom-after", "click", () => this.step(1));
    on("zoom-toggle", "click", () => this.choice.toggle(this.number));
    on("zoom-close", "click", () => dialog.close());
    on("micrograph", "change", () => this.#showPicks());
    dialog.addEventListener("keydown", event => this.#key(event));
    dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => this.grid.go(this.number));
    choice.addEventListener("change", () => this.#mark());
  }

  #part(id) {
    return this.dialog.querySelector(`#${id}`);
  }

  open(number, data) {
    this.data = data;
    this.number = number;
    if (!this.dialog.open) this.dialog.showModal();
    const entry = data.classes.find(other => other.class === number);
    this.#part("zoom-title").textContent = `Class ${number}`;
    this.grid.paint(this.#part("zoom-picture"), number);
    drawScale(this.#part("zoom-scale"), data.extent);
    const facts = MEASURES.filter(measure => entry[measure.name] != null).flatMap(measure => {
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = measure.label;
      value.textContent = written(measure, entry[measure.name]);
      return [name, value];
    });
    const others = alike(entry, data.classes).filter(other => other !== number);
    this.#part("zoom-facts").replaceChildren(...facts);
    this.#part("zoom-alike").textContent =
      others.length ? `The same view: ${others.map(other => `#${other}`).join(", ")}.` : "";
    this.#part("zoom-reason").textContent = reasoned(entry);
    this.#mark();
    this.#load(number);
  }

  #mark() {
    if (this.number === null) return;
    const selected = this.choice.has(this.number);
    this.dialog.classList.toggle("selected", selected);
    this.#part("zoom-toggle").textContent = selected ? "\u2713 Selected" : "Not selected";
    this.#part("zoom-toggle").setAttribute("aria-pressed", selected);
  }

  step(by) {
    const shown = this.grid.shown;
    const next = shown[shown.indexOf(this.number) + by];
    if (next !== undefined) this.open(next, this.data);
  }

  #key(event) {
    if (event.target.matches("select") || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowUp") this.step(-1);
    else if (event.key === "ArrowRight" || event.key === "ArrowDown") this.step(1);
    else if (event.key === " " && !event.target.matches("button")) this.choice.toggle(this.number);
    else if (event.key === "u") this.choice.undo();
    else if (event.key === "r") this.choice.redo();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async #load(number) {
    for (const id of ["members", "picks"]) this.#part(id).width = this.#part(id).height = 0;
    this.#part("frc").replaceChildren();
    this.#part("micrograph").replaceChildren();
    this.#part("member-count").textContent = "";
    this.#part("member-caption").textContent = "Reading the particles \u2026";
    this.#part("picks-part").hidden = true;
    const answer = await fetch(`class/${number}.json`);
    const facts = await answer.json();
    if (number !== this.number || !answer.ok) return;
    this.facts = facts;
    drawFrc(this.#part("frc"), facts.frequency, facts.frc);
    const options = facts.micrographs.map(({ index, name, members }) => {
      const option = document.createElement("option");
      option.value = index;
      option.textContent = `${name.split("/").pop()} (${members})`;
      option.title = name;
      return option;
    });
    this.#part("micrograph").replaceChildren(...options);
    this.#part("picks-part").hidden = !options.length;
    if (options.length) this.#showPicks();
    await this.#showMembers(number, facts);
  }

  async #showMembers(number, facts) {
    const caption = this.#part("member-caption");
    if (facts.why_not || !facts.shown) {
      caption.textContent = facts.why_not || "The class has no particles.";
      return;
    }
    this.#part("member-count").textContent =
      `${facts.shown} of ${facts.members.toLocaleString("en-US")}`;
    const image = await loaded(`class/${number}/members.png`);
    if (number !== this.number) return;
    this.#drawMembers(image, facts.shown);
    caption.textContent = "Turned and shifted into the class, from the most to the least certain "
      + "one. Above as recorded, below corrected for the CTF and low-passed to 20 \u00c5.";
  }

  // The sheet has one column per particle; here they stand in lines of pairs.
  #drawMembers(sheet, count) {
    const tile = sheet.height / 2, gap = Math.round(tile / 8);
    const canvas = this.#part("members");
    const lines = Math.ceil(count / LINE);
    canvas.width = Math.min(count, LINE) * (tile + 2) - 2;
    canvas.height = lines * (2 * tile + 2 + gap) - gap;
    const pen = canvas.getContext("2d");
    for (let i = 0; i < count; i++) {
      const left = (i % LINE) * (tile + 2), top = Math.floor(i / LINE) * (2 * tile + 2 + gap);
      for (const row of [0, 1]) {
        const down = top + row * (tile + 2);
        pen.drawImage(sheet, i * tile, row * tile, tile, tile, left, down, tile, tile);
      }
    }
  }

  async #showPicks() {
    const number = this.number, micrograph = this.#part("micrograph").value;
    const answer = await fetch(`class/${number}/picks/${micrograph}.json`);
    if (!answer.ok || number !== this.number) return;
    const picks = await answer.json();
    drawPicks(this.#part("picks"), picks);
    const members = picks.member.filter(Boolean).length;
    this.#part("picks-caption").textContent =
      `${plural(members, "particle")} of this class among ${picks.x.length} on the micrograph.`;
  }
}
