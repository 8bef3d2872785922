// The selected classes, with undo and redo; the server keeps every change.

export async function post(path, held) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(held),
    keepalive: true,
  });
  return { status: answer.status, ...(await answer.json()) };
}

export class Choice extends EventTarget {
  constructor(saved) {
    super();
    this.selected = new Set(saved.selected);
    this.revision = saved.revision;
    this.past = [];
    this.future = [];
    this.dragging = false;
    this.dirty = false;
    this.saving = null;
  }

  has(number) {
    return this.selected.has(number);
  }

  // With drag, all changes until settle() are one step of undo.
  replace(numbers, { drag = false } = {}) {
    const next = new Set(numbers);
    if (next.size === this.selected.size && [...next].every(n => this.selected.has(n))) return;
    if (!(drag && this.dragging)) this.past.push(this.selected);
    this.dragging = drag;
    this.future = [];
    this.#become(next);
  }

  settle() {
    this.dragging = false;
  }

  add(numbers) {
    this.replace([...this.selected, ...numbers]);
  }

  remove(numbers) {
    const gone = new Set(numbers);
    this.replace([...this.selected].filter(number => !gone.has(number)));
  }

  toggle(number) {
    this.has(number) ? this.remove([number]) : this.add([number]);
  }

  // The last changes cannot be undone: they have undone each other.
  forget(count) {
    this.past.splice(-count);
    this.dispatchEvent(new Event("change"));
  }

  undo() {
    this.#step(this.past, this.future);
  }

  redo() {
    this.#step(this.future, this.past);
  }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.selected);
    this.#become(from.pop());
  }

  #become(selected) {
    this.selected = selected;
    this.dispatchEvent(new Event("change"));
    this.dirty = true;
    this.save();
  }

  // What is sent: revisions count up, and the server takes none that is older than its own.
  held(step) {
    return { selected: [...this.selected], revision: this.revision + step };
  }

  // One request at a time; resolves when the server has the latest choice.
  save() {
    this.saving ??= this.#send().finally(() => { this.saving = null; });
    return this.saving;
  }

  async #send() {
    while (this.dirty) {
      this.dirty = false;
      let answer;
      try {
        answer = await post("choice", this.held(1));
      } catch {
        this.dirty = true;
        this.dispatchEvent(new Event("lost"));
        return;
      }
      if (answer.status === 409) this.adopt(answer.choice);
      else if (answer.status === 200) this.revision = answer.revision;
      else this.dispatchEvent(new CustomEvent("refused", { detail: answer.error }));
    }
  }

  // The page is being left: the last choice overtakes the one that is on its way.
  leave() {
    if (this.dirty || this.saving) post("choice", this.held(2));
  }

  // Writes the files; the answer of the server.
  async finish() {
    await this.save();
    const answer = await post("finish", this.held(1));
    this.revision += 1;
    return answer;
  }

  // Another page was faster: go on from its choice; what was here can be had back by undo.
  adopt(choice) {
    this.past.push(this.selected);
    this.selected = new Set(choice.selected);
    this.revision = choice.revision;
    this.dirty = false;
    this.dispatchEvent(new Event("change"));
    this.dispatchEvent(new Event("adopted"));
  }
}
