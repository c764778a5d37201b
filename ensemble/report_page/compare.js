// Two systems side by side: the paired difference, and where it comes from.

const SHOWN_EDITS = 5;

function drawCompare(section, open) {
  if (names.length < 2) return section.append(paragraph("There is only one system, so there is nothing to compare it with."));
  const [a, b] = data.compare.length ? data.compare : [0, 1];
  const host = element("div");
  const draw = () => compare(host, Number(first.value), Number(second.value), open);
  const first = choice(names, draw, a);
  const second = choice(names, draw, b);
  const swap = element("button", { type: "button", onclick: () => {
    [first.value, second.value] = [second.value, first.value];
    draw();
  } }, "Swap");
  section.append(element("div", { class: "controls" }, labelled("A ", first), labelled("B ", second), swap), host);
  draw();
}

function compare(host, a, b, open) {
  if (a === b) return host.replaceChildren(paragraph("Choose two different systems."));
  const change = (row) => data.distances[a][row] - data.distances[b][row];
  const rows = [...Array(utteranceCount).keys()];
  if (!data.labelled) {
    host.replaceChildren(paragraph(`${names[a]} and ${names[b]} are ${fixed(data.pairwise[a][b], 3)} edits apart on average. Without transcripts, it is not known which is better.`));
    return;
  }
  const better = rows.filter((row) => change(row) < 0);
  const worse = rows.filter((row) => change(row) > 0);
  const edits = (chosen) => Math.abs(sum(chosen.map(change)));
  host.replaceChildren(
    element("p", { class: "verdict" }, compareVerdict(a, b)),
    paragraph(`A has fewer edits in ${counted(better.length, "utterance")} (${counted(edits(better), "edit")}), more in ${worse.length} (${edits(worse)}), and equally many in ${utteranceCount - better.length - worse.length}. Their hypotheses are ${fixed(data.pairwise[a][b], 3)} edits apart on average. The interval is over ${data.intervals}. ${NOTHING} on the left of an arrow is an insertion, on the right a deletion.`),
    element("div", { class: "columns" },
      titled("By phoneme", changedPhonemes(a, b)), titled("By confusion", changedConfusions(a, b)),
      data.speakers ? titled("By speaker", changedGroups("speaker", speakerGroups(), a, b)) : null, titled("By length", changedGroups("phonemes", lengthGroups(), a, b))),
    element("h3", {}, "Utterances that changed"),
    changedUtterances(rows.filter((row) => change(row)), change, a, b, open),
  );
}

function compareVerdict(a, b) {
  const [difference, low, high] = data.differences[a][b];
  const certain = low > 0 || high < 0;
  const verdict = certain ? `A is significantly ${difference < 0 ? "better" : "worse"} than B at 95 %` : "not significantly different at 95 %";
  const level = (letter, system) => `${letter} is ${names[system]}, with ${fixed(mean(data.distances[system]), 3)} edits per utterance.`;
  return `${level("A", a)} ${level("B", b)} A − B: ${signed(difference)} [${signed(low)}, ${signed(high)}] edits per utterance; ${verdict}.`;
}

const changeColumn = (value) => ({ title: "A − B", value, text: (difference) => signed(difference, Number.isInteger(difference) ? 0 : 2) });

function bySize(value) {
  return (x, y) => Math.abs(value(y)) - Math.abs(value(x));
}

function changedPhonemes(a, b) {
  const [ours, theirs] = [phonemeErrors(a), phonemeErrors(b)];
  const total = (errors) => errors.substitutions + errors.deletions + errors.insertions;
  const difference = (token) => total(ours[token]) - total(theirs[token]);
  const items = [...Array(classes).keys()].filter((token) => token && (total(ours[token]) || total(theirs[token])));
  const columns = [
    { title: "phoneme", value: phoneme },
    { title: "errors of A", value: (token) => total(ours[token]), falling: true },
    { title: "errors of B", value: (token) => total(theirs[token]), falling: true },
    changeColumn(difference),
  ];
  return dataTable({ label: "What changed by phoneme", columns, items: items.sort(bySize(difference)), page: NARROW_ROWS }).element;
}

function changedConfusions(a, b) {
  const counts = new Map();
  [a, b].forEach((system, side) => {
    for (const [expected, recognised, times] of data.confusions[system]) {
      const key = expected * classes + recognised;
      if (!counts.has(key)) counts.set(key, { expected, recognised, times: [0, 0] });
      counts.get(key).times[side] = times;
    }
  });
  const difference = (pair) => pair.times[0] - pair.times[1];
  const columns = [
    { title: "reference → recognised", value: (pair) => `${phoneme(pair.expected)} → ${phoneme(pair.recognised)}` },
    { title: "A", value: (pair) => pair.times[0], falling: true },
    { title: "B", value: (pair) => pair.times[1], falling: true },
    changeColumn(difference),
  ];
  return dataTable({ label: "What changed by confusion", columns, items: [...counts.values()].sort(bySize(difference)), page: NARROW_ROWS }).element;
}

function changedGroups(title, groups, a, b) {
  const difference = (group) => errorRate(a, group.rows) - errorRate(b, group.rows);
  const columns = [
    { title, value: (group) => group.name },
    { title: "utterances", value: (group) => group.rows.length, falling: true },
    { title: "A, errors per 100", value: (group) => errorRate(a, group.rows), text: (value) => fixed(value), falling: true },
    { title: "B", value: (group) => errorRate(b, group.rows), text: (value) => fixed(value), falling: true },
    changeColumn(difference),
  ];
  return dataTable({ label: `What changed by ${title}`, columns, items: title === "speaker" ? groups.sort(bySize(difference)) : groups, page: NARROW_ROWS }).element;
}

function changedUtterances(items, change, a, b, open) {
  const list = (row, system) => (data.edits[row] === null ? [] : editsOf(row, system).map(describeEdit));
  const difference = (row, ours, theirs) => {
    const others = new Set(list(row, theirs));
    const alone = list(row, ours).filter((text) => !others.has(text));
    return alone.slice(0, SHOWN_EDITS).join("; ") + (alone.length > SHOWN_EDITS ? `; and ${alone.length - SHOWN_EDITS} more` : "");
  };
  const columns = [
    { title: "utterance", value: (row) => data.ids[row] },
    { title: "A", value: (row) => data.distances[a][row], falling: true },
    { title: "B", value: (row) => data.distances[b][row], falling: true },
    changeColumn(change),
    { title: "edits of A alone", wide: true, value: (row) => difference(row, a, b) },
    { title: "edits of B alone", wide: true, value: (row) => difference(row, b, a) },
  ];
  const table = dataTable({ label: "Utterances that changed", columns, items: items.sort(bySize(change)), onopen: (row) => open(row, table.ordered()) });
  return table.element;
}
