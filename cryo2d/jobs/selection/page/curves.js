// What is drawn beside an average: scale bar, ring correlation, picks on a micrograph.

// twice the size on the page, for fine screens
const MAP = { width: 920, height: 480 };
const SVG = "http://www.w3.org/2000/svg";
const ROUND = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000];

function shape(parent, name, attributes, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

// A bar of a round length below a picture that is `extent` Angstrom wide.
export function drawScale(svg, extent) {
  svg.replaceChildren();
  const length = ROUND.filter(value => value <= 0.4 * extent).pop() ?? extent;
  const share = (100 * length) / extent;
  shape(svg, "rect", { x: 0, y: 6, width: `${share}%`, height: 4, class: "ink" });
  shape(svg, "text", { x: 0, y: 24, class: "ink" }, `${length} \u00c5`);
}

export function drawFrc(svg, frequency, frc) {
  svg.replaceChildren();
  if (!frc.length) {
    shape(svg, "text", { x: 8, y: 24, class: "muted" }, "The run has not kept it.");
    return;
  }
  const [left, right, top, bottom] = [34, 412, 10, 186];
  const last = frequency[frequency.length - 1];
  const lowest = Math.min(0, ...frc.filter(value => value !== null));
  const x = value => left + ((right - left) * value) / last;
  const y = value => bottom - ((bottom - top) * (value - lowest)) / (1 - lowest);
  for (const level of [0, 0.5, 1]) {
    shape(svg, "text", { x: left - 6, y: y(level) + 4, class: "muted", "text-anchor": "end" },
          String(level));
  }
  for (const level of [0.143, 0.5]) {
    shape(svg, "line", { x1: left, x2: right, y1: y(level), y2: y(level), class: "level" });
  }
  shape(svg, "text", { x: right, y: y(0.143) - 4, class: "muted", "text-anchor": "end" }, "0.143");
  shape(svg, "path", { d: `M${left} ${top}V${bottom}H${right}`, class: "axis" });
  const ticks = [100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2];
  let before = left;
  for (const resolution of ticks.filter(value => 1 / value <= last)) {
    const place = x(1 / resolution);
    if (place - before < 34) continue;
    before = place;
    shape(svg, "line", { x1: place, x2: place, y1: bottom, y2: bottom + 4, class: "axis" });
    shape(svg, "text", { x: place, y: bottom + 17, class: "muted", "text-anchor": "middle" },
          String(resolution));
  }
  shape(svg, "text", { x: right, y: bottom + 32, class: "muted", "text-anchor": "end" },
        "resolution (\u00c5)");
  const points = frc.map((value, i) => (value === null ? null : [x(frequency[i]), y(value)]));
  const line = points.filter(Boolean).map(point => point.map(v => v.toFixed(1)).join(" "));
  shape(svg, "path", { d: `M${line.join("L")}`, class: "curve" });
}

// All picks as rings, the members of the class filled; rows run downwards as in the micrograph.
export function drawPicks(canvas, { x, y, member, width, height, box }) {
  const colours = getComputedStyle(canvas);
  const scale = Math.min(MAP.width / width, MAP.height / height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = colours.getPropertyValue("--blank");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const radius = Math.max(5, Math.min(30, 0.25 * box * scale));
  for (const inside of [false, true]) {
    pen.strokeStyle = colours.getPropertyValue(inside ? "--chosen" : "--muted");
    pen.fillStyle = pen.strokeStyle;
    pen.lineWidth = inside ? 4 : 2;
    for (let i = 0; i < x.length; i++) {
      if (member[i] !== inside) continue;
      pen.beginPath();
      pen.arc(x[i] * scale, y[i] * scale, radius, 0, 2 * Math.PI);
      pen.stroke();
      pen.globalAlpha = 0.35;
      if (inside) pen.fill();
      pen.globalAlpha = 1;
    }
  }
}
