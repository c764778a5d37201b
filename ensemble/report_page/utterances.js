// The table of utterances, and the window that shows a single utterance.

const [SAME, OTHER] = data.labelled ? ["right", "wrong"] : [`as in ${targetName}`, "different"];

function drawUtterances(section, open) {
  const systems = names.map((_, system) => system);
  const carried = Object.keys(data.details).length;
  const kept = data.edits.filter((edits) => edits !== null).length;
  const state = { text: "", speaker: "", phoneme: 0, system: -1 };
  const columns = [
    { title: "utterance", value: (row) => data.ids[row] },
    { title: data.labelled ? "mean" : "disagreement", value: (row) => (data.labelled ? mean(systems.map((system) => data.distances[system][row])) : data.disagreement[row]), text: (value) => fixed(value), falling: true },
    ...systems.map((system) => ({ title: names[system], value: (row) => data.distances[system][row], falling: true })),
    { title: "phonemes", value: (row) => data.lengths[row], falling: true },
    ...(data.speakers ? [{ title: "speaker", value: (row) => data.speakers[row] }] : []),
    { title: "details", value: (row) => (row in data.details ? "features" : data.edits[row] === null ? "distances alone" : "") },
  ];
  const rows = [...Array(utteranceCount).keys()];
  const table = dataTable({ label: "Utterances", columns, items: rows, onopen: (row) => open(row, table.ordered()), sortedBy: 1, direction: -1 });
  const count = element("output", { class: "readout", "aria-live": "polite" });
  const update = () => {
    const chosen = rows.filter((row) => matches(row, state));
    table.show(chosen);
    count.textContent = `${chosen.length} of ${utteranceCount} utterances`;
  };
  const set = (key, number) => (event) => {
    state[key] = number ? Number(event.target.value) : event.target.value;
    update();
  };
  const speakers = [...new Set(data.speakers || [])].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const option = (value, text) => element("option", { value }, text);
  const controls = [labelled("Search ", element("input", { type: "search", oninput: set("text"), placeholder: "utterance id" }))];
  if (speakers.length) controls.push(labelled("Speaker ", element("select", { onchange: set("speaker") }, option("", "all"), ...speakers.map((name) => option(name, name)))));
  controls.push(labelled("Phoneme ", element("select", { onchange: set("phoneme", true) }, option(0, "any"), ...data.phonemes.flatMap((name, token) => (token ? [[token, name]] : [])).sort((a, b) => a[1].localeCompare(b[1], "en")).map(([token, name]) => option(token, name)))));
  controls.push(labelled(data.labelled ? "With errors of " : "With differences of ", element("select", { onchange: set("system", true) }, option(-1, "any or none"), ...names.map((name, system) => option(system, name)))));
  controls.push(element("button", { type: "button", onclick: () => download("utterances.csv", "text/csv", csvOf(columns.slice(0, -1), table.ordered())) }, "Export as CSV"));
  section.append(
    paragraph(`${data.labelled ? "Edits in each utterance, by system and on average over systems" : `No transcripts: edits to the hypothesis of ${targetName}`}. Click an utterance to see each system's hypothesis. ${carried === utteranceCount ? "All" : `The hardest ${carried} of ${utteranceCount}`} include features and posteriors as well (--hardest)${kept < utteranceCount ? `; the hardest ${kept} include hypotheses, the others only distances` : ""}.`),
    element("div", { class: "controls" }, ...controls, count), table.element,
  );
  update();
}

function matches(row, state) {
  if (state.text && !data.ids[row].toLowerCase().includes(state.text.toLowerCase())) return false;
  if (state.speaker && data.speakers[row] !== state.speaker) return false;
  if (!state.phoneme) return state.system < 0 || data.distances[state.system][row] > 0;
  if (data.edits[row] === null) return false;
  if (state.system < 0) return targetOf(row).includes(state.phoneme);
  return editsOf(row, state.system).some((edit) => edit.expected === state.phoneme || edit.recognised === state.phoneme);
}

// A spreadsheet must not interpret an id as a formula.
function csvCell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csvOf(columns, rows) {
  const spelled = (tokens) => tokens.map(phoneme).join(" ");
  const header = [...columns.map((column) => column.title), ...(data.labelled ? [targetName] : []), ...names.map((name) => `hypothesis of ${name}`)];
  const lines = rows.map((row) => {
    const texts = data.edits[row] === null ? [] : names.map((_, system) => spelled(hypothesisOf(row, system)));
    const reference = data.labelled && texts.length ? [spelled(targetOf(row))] : [];
    return [...columns.map((column) => column.value(row)), ...reference, ...texts];
  });
  return [header, ...lines].map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

// The window with one utterance; `rows` are those that Previous and Next step through.
function utteranceWindow() {
  const title = element("h2", { id: "utterance-title" });
  const body = element("div", { class: "body" });
  let rows = [];
  let row = 0;
  const step = (by) => {
    const index = rows.indexOf(row) + by;
    if (index >= 0 && index < rows.length) show(rows[index]);
  };
  const button = (text, onclick) => element("button", { type: "button", onclick }, text);
  const bar = element("div", { class: "bar" }, title, button("Previous", () => step(-1)), button("Next", () => step(1)), button("Close", () => dialog.close()));
  const dialog = element("dialog", { "aria-labelledby": "utterance-title" }, bar, body);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);

  function show(chosen) {
    row = chosen;
    title.textContent = data.ids[row];
    body.replaceChildren(...utteranceParts(row));
    body.scrollTop = 0;
  }
  return (chosen, list = [chosen]) => {
    rows = list;
    dialog.showModal();
    show(chosen);
  };
}

function utteranceParts(row) {
  const speaker = data.speakers ? `Speaker ${data.speakers[row]}: ` : "";
  const items = names.map((_, system) => system);
  const known = data.edits[row] !== null;
  const columns = [
    { title: "system", value: (system) => names[system] },
    { title: "edits", value: (system) => data.distances[system][row] },
    ...(known ? [{ title: "edit by edit", wide: true, value: (system) => editsOf(row, system).map(describeEdit).join("; ") }] : []),
  ];
  const parts = [paragraph(`${speaker}${counted(data.lengths[row], "phoneme")} in the ${data.labelled ? "reference" : `hypothesis of ${targetName}`}.`)];
  if (known) parts.push(element("h3", {}, "Hypotheses, slot by slot"), slotTable(row), element("h3", {}, "Confusion network"), networkPicture(row));
  else parts.push(paragraph("To keep the page small, easy utterances such as this one have distances but no hypotheses."));
  parts.push(element("h3", {}, "Edits"), dataTable({ label: "Edits", columns, items }).element);
  if (row in data.details) parts.push(element("h3", {}, "Features and posteriors"), signalPictures(data.details[row]));
  else parts.push(paragraph("Only the hardest utterances include features and posteriors (--hardest)."));
  return parts;
}

// One row per system: slots where all agree are grey; elsewhere, right and wrong phonemes are marked.
function slotTable(row) {
  const columns = alignment(row);
  const agreed = columns.map((column) => column.systems.every((token) => token === column.target));
  const kindOf = (column, index, token) => (agreed[index] ? "same" : token === column.target ? "right" : "wrong");
  const line = (name, tokenOf, kind) => element("tr", {}, element("th", { scope: "row" }, name), ...columns.map((column, index) => {
    const token = tokenOf(column);
    return element("td", { class: kind(column, index, token) }, token ? phoneme(token) : "·");
  }));
  const body = [
    line(targetName, (column) => column.target, (_, index) => (agreed[index] ? "same" : "target")),
    ...names.map((name, system) => (data.labelled || system ? line(name, (column) => column.systems[system], kindOf) : null)),
  ];
  const legend = element("p", { class: "note" }, "Grey: all agree. ", element("span", { class: "right" }, SAME), " ", element("span", { class: "wrong" }, OTHER), " · nothing in this slot.");
  return element("div", {}, scroller("Hypotheses, slot by slot", element("table", { class: "slots" }, element("tbody", {}, ...body.filter(Boolean)))), legend);
}

// The members' votes in each slot, most votes at the bottom; members count by their weights in the first blend, if any.
function networkPicture(row) {
  const members = data.systems.flatMap((system, index) => (system.kind === "member" ? [index] : []));
  const total = sum(members.map((system) => data.systems[system].weight || 0));
  const weight = (system) => (total ? (data.systems[system].weight || 0) / total : 1 / members.length);
  const [step, height] = [30, 120];
  const columns = alignment(row);
  const picture = svg("svg", { class: "chart network", role: "img", "aria-label": "Confusion network of the members", width: columns.length * step + 4, height: height + 24 });
  columns.forEach((column, index) => {
    const votes = new Map();
    for (const system of members) votes.set(column.systems[system], (votes.get(column.systems[system]) || 0) + weight(system));
    let bottom = height;
    for (const [token, share] of [...votes].sort((x, y) => y[1] - x[1])) {
      const size = share * height;
      if (size < 0.5) continue;
      const kind = token === column.target ? "arc right" : token ? "arc wrong" : "arc none";
      const box = svg("rect", { class: kind, x: index * step + 2, y: bottom - size, width: step - 3, height: Math.max(size - 1, 0.5) });
      box.append(svg("title", {}, `${token ? phoneme(token) : "nothing"}: ${fixed(100 * share, 0)} %`));
      picture.append(box);
      if (size > 13) picture.append(svg("text", { x: index * step + step / 2, y: bottom - size / 2 + 4, "text-anchor": "middle", class: "small" }, token ? phoneme(token) : "·"));
      bottom -= size;
    }
    picture.append(svg("text", { x: index * step + step / 2, y: height + 16, "text-anchor": "middle", class: "small" }, column.target ? phoneme(column.target) : "·"));
  });
  return element("div", {}, scroller("Confusion network", picture), paragraph(`The members' votes${total ? `, by their weights in ${data.weightedBy}` : ""}: the height of a box is its share, green is ${SAME}, red is ${OTHER}, and · means nothing in this slot. The ${data.labelled ? "reference" : `hypothesis of ${targetName}`} is below.`));
}

const FRAME_WIDTH = 2;
const ROW_HEIGHT = 12;

// One picture of the features and one per member, on a common time axis.
function signalPictures(details) {
  const frames = details.features.frames * details.features.step;
  const width = frames * FRAME_WIDTH;
  const features = bytes(details.features.data);
  const channels = features.length / details.features.frames;
  const output = element("output", { class: "readout", "aria-live": "polite" }, "Point at a picture to read it.");
  const lanes = [heatLane("features", "", Array.from({ length: channels }, (_, k) => channels - 1 - k), details.features.frames, width, 5,
    (frame, channel) => features[frame * channels + channel] / 255, (frame, channel) => `frame ${frame * details.features.step}, feature ${channel}`, output)];
  details.posteriors.forEach((packed, member) => {
    const rows = unpackPosteriors(packed);
    const shown = [0, ...similarTogether(Array.from({ length: classes - 1 }, (_, k) => k + 1)).filter((token) => rows.some((row) => row[token] >= 0.1))];
    const most = (frame) => [...rows[frame].keys()].sort((x, y) => rows[frame][y] - rows[frame][x]).slice(0, 3).map((token) => `${token ? phoneme(token) : "blank"} ${fixed(rows[frame][token])}`).join(", ");
    lanes.push(heatLane(`posteriors of ${data.members[member]}`, data.members[member], shown, rows.length, width, ROW_HEIGHT,
      (frame, token) => rows[frame][token], (frame) => `${data.members[member]}, output frame ${frame}: ${most(frame)}`, output));
  });
  return element("div", {}, paragraph(`${frames} frames from left to right; features are means of ${details.features.step} frames. A member's posteriors, the mean over its networks, show how probable each phoneme is in each frame: the stronger the colour, the more probable. The blank, the first row, stands for no phoneme.`), output, scroller("Features and posteriors", ...lanes));
}

function heatLane(label, title, rows, frames, width, rowHeight, value, describe, output) {
  const canvas = element("canvas", { width: frames, height: rows.length, role: "img", "aria-label": label });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${rows.length * rowHeight}px`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(frames, rows.length);
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--shade-rgb").split(" ").map(Number);
  rows.forEach((row, y) => {
    for (let frame = 0; frame < frames; frame++) image.data.set([...colour, 255 * value(frame, row)], 4 * (y * frames + frame));
  });
  context.putImageData(image, 0, 0);
  const read = (event) => {
    const box = canvas.getBoundingClientRect();
    const frame = Math.min(frames - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * frames)));
    const row = rows[Math.min(rows.length - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows.length)))];
    output.textContent = describe(frame, row);
  };
  canvas.addEventListener("pointermove", read);
  canvas.addEventListener("pointerdown", read);
  const names = title ? rows.map((token) => element("span", {}, token ? phoneme(token) : "blank")) : [element("span", {}, "low to high, upwards")];
  const side = element("div", { class: title ? "names" : "names single", "aria-hidden": "true" }, ...names);
  return element("div", { class: "lane" }, element("h4", {}, label), element("div", { class: "strip" }, side, canvas));
}
