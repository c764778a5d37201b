"use strict";
// Elements, numbers and colours. Text from the data becomes text nodes, never HTML.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, name), attributes, children);
}

function paragraph(text) {
  return element("p", { class: "note" }, text);
}

function titled(title, part) {
  return element("div", {}, element("h3", {}, title), part);
}

// A container that scrolls horizontally, so that the page never does.
function scroller(label, ...children) {
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, ...children);
}

function labelled(text, control) {
  return element("label", {}, element("span", {}, text), control);
}

function choice(options, onchange, selected = 0) {
  const items = options.map((text, index) => element("option", { value: index, selected: index === selected }, text));
  return element("select", { onchange }, ...items);
}

function fixed(value, digits = 2) {
  return value === null || Number.isNaN(value) ? "" : value.toFixed(digits);
}

// The sign is that of the rounded value.
function signed(value, digits = 3) {
  const text = fixed(value, digits);
  const rounded = Number(text);
  return text && (rounded > 0 ? "+" : rounded < 0 ? "−" : "±") + text.replace("-", "");
}

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values) {
  return values.length ? sum(values) / values.length : NaN;
}

function percent(part, whole) {
  return whole ? (100 * part) / whole : NaN;
}

// Eight colours that are visible on light and dark backgrounds; further lines are distinguished by dashes.
function lineStyle(colour, dash = Math.floor(colour / 8)) {
  return { class: `line series-${colour % 8}`, "stroke-dasharray": ["", "6 3", "2 3", "9 3 2 3"][dash % 4] || null };
}

// Round numbers that divide the range from low to high into about `count` parts.
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((width) => width >= rough) || rough;
  const first = Math.ceil(low / step - 1e-9);
  const values = [];
  for (let k = first; k * step <= high + step * 1e-9; k++) values.push(Number((k * step).toPrecision(12)));
  return values;
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
