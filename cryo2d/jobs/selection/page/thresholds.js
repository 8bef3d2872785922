// One slider per measure; the classes that pass all of them are selected while a slider moves.

import { compare, MEASURES, plural, reaches, written } from "./measures.js";

export class Thresholds {
  constructor(section, choice) {
    this.section = section;
    this.choice = choice;
    this.sliders = [];
  }

  update(classes) {
    this.classes = classes;
    const known = MEASURES.filter(measure => classes.some(entry => entry[measure.name] != null));
    const names = known.map(measure => measure.name).join();
    if (names !== this.names) this.#build(known);
    this.names = names;
    for (const slider of this.sliders) this.#range(slider);
    this.#tell();
  }

  #build(known) {
    const holder = this.section.querySelector(".sliders");
    holder.replaceChildren();
    this.sliders = known.map(measure => {
      const label = document.createElement("label");
      const name = document.createElement("span"), value = document.createElement("output");
      const input = document.createElement("input");
      Object.assign(input, { type: "range", min: 0, step: 1, value: 0 });
      input.dataset.measure = measure.name;
      name.textContent = measure.label;
      input.addEventListener("input", () => this.#apply());
      input.addEventListener("change", () => this.choice.settle());
      label.append(name, value, input);
      holder.append(label);
      return { measure, input, value, steps: [] };
    });
    const reset = document.createElement("button");
    reset.textContent = "Reset";
    reset.title = "Take the thresholds away; the selection stays";
    reset.addEventListener("click", () => this.reset());
    holder.append(reset);
  }

  // A slider has one step per distinct value, the loosest first.
  #range(slider) {
    const { measure, input } = slider;
    const held = slider.steps[input.value];
    const distinct = new Map(this.classes.map(entry => [entry[measure.name], entry]));
    slider.steps = [...distinct.values()]
      .sort((a, b) => compare(measure, b, a))
      .map(entry => entry[measure.name]);
    input.max = slider.steps.length - 1;
    const again = slider.steps.indexOf(held);
    input.value = again < 0 ? 0 : again;
  }

  get active() {
    return this.sliders.filter(slider => Number(slider.input.value) > 0);
  }

  get passing() {
    return this.classes.filter(entry => this.active.every(
      ({ measure, input, steps }) => reaches(measure, entry, steps[input.value])
    ));
  }

  #apply() {
    this.choice.replace(this.passing.map(entry => entry.class), { drag: true });
    this.#tell();
  }

  reset() {
    for (const { input } of this.sliders) input.value = 0;
    this.#tell();
  }

  #tell() {
    const rules = [];
    for (const { measure, input, value, steps } of this.sliders) {
      const limit = steps[input.value];
      const sign = measure.better > 0 ? "\u2265" : "\u2264";
      const on = Number(input.value) > 0;
      value.textContent = on ? `${sign} ${written(measure, limit)}` : "any";
      if (on) rules.push(`${measure.name} ${measure.better > 0 ? ">=" : "<="} ${limit}`);
    }
    const passing = this.passing;
    const particles = passing.reduce((sum, entry) => sum + entry.count, 0);
    this.section.querySelector("#threshold-count").textContent = rules.length
      ? `${plural(passing.length, "class")} and ${plural(particles, "particle")} pass.`
      : "Move a slider to select the classes that pass.";
    const rule = rules.length ? `rules='${rules.join(" and ")}'` : "";
    this.section.querySelector("#threshold-rule").textContent = rule;
  }
}
