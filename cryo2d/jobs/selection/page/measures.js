// What is known of a class: how it is called, written, and which way is better.

const whole = value => value.toLocaleString("en-US");
const digits = count => value => value.toFixed(count);

export const MEASURES = [
  { name: "count", label: "particles", unit: "", better: 1, text: whole },
  { name: "resolution", label: "resolution", unit: " \u00c5", better: -1, text: digits(1) },
  { name: "ess", label: "ESS", unit: "", better: -1, text: digits(2) },
  { name: "score", label: "score", unit: "", better: 1, text: digits(2) },
  { name: "posterior", label: "posterior", unit: "", better: 1, text: digits(2) },
  { name: "stability", label: "stability", unit: "", better: 1, text: digits(2) },
];

export const EXTRA_ORDERS = [
  { name: "class", label: "class number", better: -1 },
  { name: "similarity", label: "similarity", better: -1 },
  { name: "superclass", label: "superclass", better: -1 },
];

export function written(measure, value) {
  return value === null ? "\u2013" : measure.text(value) + measure.unit;
}

// Compares two classes by a measure, the better one first; classes without a value come last.
export function compare(measure, first, second) {
  const a = first[measure.name], b = second[measure.name];
  if (a === null || b === null) return (a === null) - (b === null);
  return measure.better * (b - a);
}

// Whether a class is as good as a value or better; one without a value is worse than any.
export function reaches(measure, entry, value) {
  const own = entry[measure.name];
  if (own === null) return value === null;
  return value === null || measure.better * (own - value) >= 0;
}

// The score of a class and what speaks against it, in words.
export function reasoned(entry) {
  if (entry.score == null) return "";
  return `Score ${entry.score.toFixed(2)}${entry.reason ? `: ${entry.reason}` : ""}`;
}

// Numbers of the classes that show the same view as this one, itself among them.
export function alike(entry, classes) {
  if (!entry.superclass) return [];
  const same = classes.filter(other => other.superclass === entry.superclass);
  return same.map(other => other.class);
}

export function plural(count, noun) {
  const many = noun.endsWith("s") ? `${noun}es` : `${noun}s`;
  return `${whole(count)} ${count === 1 ? noun : many}`;
}

export { whole };
