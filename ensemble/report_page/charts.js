// SVG charts, drawn at the available width: lines and points with zoom, and grids of shaded cells.

const MARGIN = { top: 12, right: 16, bottom: 46, left: 58 };

// series: [{name, points: [[x, y]], pointsOnly, colour, dash}]; colours follow the order of the series unless given. `top` limits the y axis, `xNames` labels integer values of x.
function chart({ label, xLabel, yLabel, series, top = null, xNames = null, diagonal = false, height = 320 }) {
  const all = series.flatMap((line) => line.points);
  const xs = xNames ? xNames.map((_, index) => index) : all.map((point) => point[0]);
  const whole = {
    x: [Math.min(...xs), Math.max(...xs)],
    y: [0, (top ?? Math.max(0, ...all.map((point) => point[1]))) * 1.04 || 1],
  };
  if (diagonal) whole.x = whole.y = [0, Math.max(...all.flatMap(([x, y]) => [x, y])) * 1.04 || 1];
  else {
    const edge = xNames ? 0.4 : (whole.x[1] - whole.x[0]) * 0.015 || 0.5;
    whole.x = [whole.x[0] - edge, whole.x[1] + edge];
  }
  let view = structuredClone(whole);
  const hidden = new Set();
  const output = element("output", { class: "readout", "aria-live": "polite" });
  const picture = svg("svg", { class: "chart", role: "img", "aria-label": label, height });
  const scaleX = (x) => MARGIN.left + ((x - view.x[0]) / (view.x[1] - view.x[0])) * (width() - MARGIN.left - MARGIN.right);
  const scaleY = (y) => height - MARGIN.bottom - ((y - view.y[0]) / (view.y[1] - view.y[0])) * (height - MARGIN.top - MARGIN.bottom);
  const width = () => Math.max(picture.parentElement ? picture.parentElement.clientWidth : 640, 260);

  const styleOf = (line, index) => lineStyle(line.colour ?? index, line.dash);
  const pointClass = (line, index) => `point series-${(line.colour ?? index) % 8}`;

  function axes() {
    const parts = [];
    const xTicks = xNames ? xs.filter((x) => x >= view.x[0] && x <= view.x[1]) : ticks(...view.x, Math.max(2, width() / 90));
    const perName = xNames ? Math.ceil((Math.max(...xNames.map((name) => name.length)) * 7 + 12) / ((width() - MARGIN.left - MARGIN.right) / xNames.length)) : 1;
    for (const x of xTicks) {
      if (xNames && x % perName) continue;
      parts.push(svg("line", { class: "grid", x1: scaleX(x), x2: scaleX(x), y1: MARGIN.top, y2: height - MARGIN.bottom }));
      const name = String(xNames ? xNames[x] : x);
      const inside = Math.min(scaleX(x), width() - 3.9 * name.length);
      parts.push(svg("text", { x: inside, y: height - MARGIN.bottom + 17, "text-anchor": "middle" }, name));
    }
    for (const y of ticks(...view.y, 5)) {
      parts.push(svg("line", { class: "grid", x1: MARGIN.left, x2: width() - MARGIN.right, y1: scaleY(y), y2: scaleY(y) }));
      parts.push(svg("text", { x: MARGIN.left - 7, y: scaleY(y) + 4, "text-anchor": "end" }, String(y)));
    }
    const middle = (MARGIN.top + height - MARGIN.bottom) / 2;
    parts.push(svg("text", { class: "axis", x: (MARGIN.left + width()) / 2, y: height - 8, "text-anchor": "middle" }, xLabel));
    parts.push(svg("text", { class: "axis", transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
    return parts;
  }

  function draw() {
    const clip = `clip-${label.replace(/\W/g, "")}`;
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    if (diagonal) inside.append(svg("line", { class: "diagonal", x1: scaleX(whole.x[0]), y1: scaleY(whole.x[0]), x2: scaleX(whole.x[1]), y2: scaleY(whole.x[1]) }));
    series.forEach((line, index) => {
      if (hidden.has(index)) return;
      const points = line.points.map(([x, y]) => [scaleX(x), scaleY(y)]);
      if (!line.pointsOnly) inside.append(svg("polyline", { ...styleOf(line, index), points: points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ") }));
      if (line.pointsOnly || points.length < 40) {
        for (const [x, y] of points) inside.append(svg("circle", { class: pointClass(line, index), cx: x, cy: y, r: line.pointsOnly ? 4.5 : 2.5 }));
      }
    });
    const box = { x: MARGIN.left, y: MARGIN.top, width: width() - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    picture.setAttribute("width", width());
    picture.replaceChildren(svg("clipPath", { id: clip }, svg("rect", box)), svg("rect", { class: "ground", ...box }), ...axes(), inside);
  }

  // In a much shorter range, neighbouring ticks would be the same number.
  const longEnough = (axis, full) => axis[1] - axis[0] > (full[1] - full[0]) * 1e-6;

  function zoom(x, y) {
    if (!longEnough(x, whole.x) || !longEnough(y, whole.y)) return;
    view = { x, y };
    draw();
  }

  function zoomBy(factor) {
    const centre = (view.x[0] + view.x[1]) / 2;
    const half = ((view.x[1] - view.x[0]) / 2) * factor;
    const from = Math.max(whole.x[0], centre - half);
    const to = Math.min(whole.x[1], centre + half);
    const seen = series.flatMap((line, index) => (hidden.has(index) ? [] : line.points)).filter(([x]) => x >= from && x <= to);
    const values = seen.map((point) => point[1]);
    const low = Math.min(...values);
    const high = Math.min(view.y[1], Math.max(...values));
    if (factor > 1) zoom([from, to], whole.y);
    else zoom([from, to], low <= high ? padded(low, high) : view.y);
  }

  function padded(low, high) {
    const edge = (high - low) * 0.06 || 0.5;
    return [Math.max(0, low - edge), high + edge];
  }

  function place(event) {
    const box = picture.getBoundingClientRect();
    const within = (value, low, high) => Math.min(Math.max(value, low), high);
    return [within(event.clientX - box.left, MARGIN.left, width() - MARGIN.right), within(event.clientY - box.top, MARGIN.top, height - MARGIN.bottom)];
  }

  const invertX = (x) => view.x[0] + ((x - MARGIN.left) / (width() - MARGIN.left - MARGIN.right)) * (view.x[1] - view.x[0]);
  const invertY = (y) => view.y[0] + ((height - MARGIN.bottom - y) / (height - MARGIN.top - MARGIN.bottom)) * (view.y[1] - view.y[0]);

  function readOut([x, y]) {
    let best = null;
    series.forEach((line, index) => {
      if (hidden.has(index)) return;
      for (const [px, py, text] of line.points) {
        const distance = Math.hypot(scaleX(px) - x, scaleY(py) - y);
        if (!best || distance < best.distance) best = { distance, line, px, py, text };
      }
    });
    if (best) output.textContent = `${best.line.name}: ${best.text || `${xLabel} ${xNames ? xNames[best.px] : best.px}`}, ${fixed(best.py, 3)}`;
  }

  let start = null;
  const removeSelection = () => picture.querySelector(".selection")?.remove();
  picture.addEventListener("pointerdown", (event) => {
    readOut(place(event)); // a tap moves no pointer
    if (event.button !== 0) return;
    start = place(event);
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    const now = place(event);
    readOut(now);
    removeSelection();
    if (!start) return;
    const [x, y] = [Math.min(start[0], now[0]), Math.min(start[1], now[1])];
    picture.append(svg("rect", { class: "selection", x, y, width: Math.abs(now[0] - start[0]), height: Math.abs(now[1] - start[1]) }));
  });
  picture.addEventListener("pointerup", (event) => {
    const [from, to] = [start, place(event)];
    start = null;
    removeSelection();
    if (!from || Math.abs(from[0] - to[0]) < 8 || Math.abs(from[1] - to[1]) < 8) return;
    const order = (a, b) => (a < b ? [a, b] : [b, a]);
    zoom(order(invertX(from[0]), invertX(to[0])), order(invertY(from[1]), invertY(to[1])));
  });
  picture.addEventListener("pointercancel", () => {
    start = null;
    removeSelection();
  });
  picture.addEventListener("dblclick", () => zoom(whole.x, whole.y));

  const legend = series.map((line, index) => {
    const mark = line.pointsOnly ? svg("circle", { class: pointClass(line, index), cx: 11, cy: 5, r: 4.5 }) : svg("line", { ...styleOf(line, index), x1: 0, x2: 22, y1: 5, y2: 5 });
    const swatch = svg("svg", { width: 22, height: 10, "aria-hidden": "true" }, mark);
    const button = element("button", { type: "button", "aria-pressed": "true", onclick: () => {
      hidden.has(index) ? hidden.delete(index) : hidden.add(index);
      button.setAttribute("aria-pressed", String(!hidden.has(index)));
      draw();
    } }, swatch, line.name);
    return button;
  });
  const controls = [["Zoom in", () => zoomBy(0.5)], ["Zoom out", () => zoomBy(2)], ["Reset", () => zoom(whole.x, whole.y)]];
  const buttons = controls.map(([text, onclick]) => element("button", { type: "button", onclick }, text));
  const host = element("div", { class: "drawing" }, picture);
  new ResizeObserver(draw).observe(host);
  return element("figure", {}, element("div", { class: "controls" }, ...buttons, output), host, element("div", { class: "legend" }, ...legend));
}

// A grid of cells, shaded by shade(row, column) from 0 to 1. Hover, touch or arrow keys read out describe(row, column).
function grid({ label, rows, columns, shade, describe, text = () => "", cell = 17, rowTitle = "", columnTitle = "" }) {
  const left = Math.max(34, 8 + 7 * Math.max(...rows.map((name) => name.length))) + (rowTitle ? 18 : 0);
  const longest = Math.max(...columns.map((name) => name.length));
  const [slant, head] = cell < 25 ? [-90, 14 + 7 * longest] : [-35, 16 + 5 * longest];
  const top = head + (columnTitle ? 18 : 0);
  const size = { width: left + columns.length * cell + (slant === -90 ? 4 : 6 * longest), height: top + rows.length * cell + 4 };
  const picture = svg("svg", { class: "chart heat", role: "application", tabindex: 0, "aria-label": `${label}; arrow keys move from cell to cell`, ...size });
  const output = element("output", { class: "readout", "aria-live": "polite" }, "Point at a cell to read it.");
  const at = (row, column) => ({ x: left + column * cell, y: top + row * cell, width: cell - 1, height: cell - 1 });
  picture.append(svg("rect", { class: "ground", x: left, y: top, width: columns.length * cell - 1, height: rows.length * cell - 1 }));
  if (columnTitle) picture.append(svg("text", { class: "axis", x: left, y: 12 }, columnTitle));
  if (rowTitle) picture.append(svg("text", { class: "axis", "text-anchor": "end", transform: `translate(12 ${top}) rotate(-90)` }, rowTitle));
  columns.forEach((name, column) => {
    const place = `translate(${left + (column + 0.5) * cell + 3} ${top - 6}) rotate(${slant})`;
    picture.append(svg("text", { transform: place, class: cell < 20 ? "small" : "" }, name));
  });
  rows.forEach((name, row) => {
    picture.append(svg("text", { x: left - 5, y: top + (row + 0.5) * cell + 4, "text-anchor": "end", class: cell < 20 ? "small" : "" }, name));
    columns.forEach((_, column) => {
      const value = shade(row, column);
      if (value === null) return;
      const inside = text(row, column);
      // Shading behind a number is light enough to keep it readable.
      picture.append(svg("rect", { class: "cell", ...at(row, column), "fill-opacity": (inside ? value / 2 : value).toFixed(3) }));
      if (inside) picture.append(svg("text", { x: left + (column + 0.5) * cell, y: top + (row + 0.5) * cell + 4, "text-anchor": "middle" }, inside));
    });
  });
  const cursor = svg("rect", { class: "cursor", visibility: "hidden", ...at(0, 0) });
  picture.append(cursor);
  let place = [0, 0];
  const show = (row, column) => {
    if (row < 0 || column < 0 || row >= rows.length || column >= columns.length) return;
    place = [row, column];
    fill(cursor, { ...at(row, column), visibility: "visible" }, []);
    output.textContent = describe(row, column);
  };
  const read = (event) => {
    const box = picture.getBoundingClientRect();
    show(Math.floor((event.clientY - box.top - top) / cell), Math.floor((event.clientX - box.left - left) / cell));
  };
  picture.addEventListener("pointermove", read);
  picture.addEventListener("pointerdown", read);
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place[0] + step[0], place[1] + step[1]);
  });
  return element("figure", {}, output, element("div", { class: "scroll" }, picture));
}
