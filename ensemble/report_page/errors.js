// The sections about all systems: learning curves, diversity, errors, where errors are, leaderboard.

function drawCurves(section) {
  if (!data.curves.length) return section.append(paragraph("The runs have no metrics."));
  const tops = data.curves.map((curve) => curve.points[Math.min(1, curve.points.length - 1)][1]);
  section.append(
    paragraph("Held-out distance (greedy) of every fold model by epoch. Drag over a part to zoom in; a double click resets. The y axis ends at the distance after the second epoch."),
    chart({ label: "Learning curves", xLabel: "epoch", yLabel: "edits per utterance, held out", series: curveSeries(), top: Math.max(...tops) }),
  );
}

// The fold models of a member share its colour and differ in their dashes.
function curveSeries() {
  const before = (curve, index) => data.curves.slice(0, index).filter((other) => other.member === curve.member).length;
  return data.curves.map((curve, index) => ({ ...curve, colour: names.indexOf(data.members[curve.member]), dash: before(curve, index) }));
}

function drawDiversity(section) {
  const pairs = names.flatMap((_, i) => names.flatMap((_, j) => (i < j ? [data.pairwise[i][j]] : [])));
  if (!pairs.length) return section.append(paragraph("With only one system, there is nothing to compare."));
  const largest = Math.max(...pairs, 1e-9);
  const cell = names.length > 12 ? 26 : 40;
  const pictures = element("div", { class: "columns" });
  const decimals = names.length > 12 ? 0 : 1;
  pictures.append(element("div", {}, element("h3", {}, "Distances between hypotheses"), grid({
    label: "Distances between systems", rows: names, columns: names, cell,
    shade: (i, j) => (i === j ? null : data.pairwise[i][j] / largest),
    text: (i, j) => (i === j ? "" : fixed(data.pairwise[i][j], decimals)),
    describe: (i, j) => (i === j ? names[i] : `${names[i]} and ${names[j]}: ${fixed(data.pairwise[i][j], 3)} edits apart`),
  })));
  const meaning = data.labelled ? " Errors are correlated if two systems get the same phonemes of the reference wrong. A blend gains most from good members that make different errors: far apart, with a low correlation." : "";
  section.append(paragraph(`Distances are mean edits between two systems' hypotheses of ${data.split}.${meaning}`), pictures);
  if (!data.labelled) return;
  pictures.append(element("div", {}, element("h3", {}, "Correlation of errors"), grid({
    label: "Correlation of errors", rows: names, columns: names, cell,
    shade: (i, j) => (i === j || data.correlation[i][j] === null ? null : Math.max(0, data.correlation[i][j])),
    text: (i, j) => (i === j ? "" : fixed(data.correlation[i][j], 2).replace("0.", ".")),
    describe: describeCorrelation,
  })));
  section.append(
    element("h3", {}, "Redundant members"),
    redundancyTable(),
    paragraph(`A near copy differs from a better member by less than a quarter of the median distance between members. "Alone right" counts the phonemes of the reference (of ${sum(data.phonemeCounts).toLocaleString("en")} in all) that no other member gets right. ${data.systems.some((system) => system.weight !== null) ? `Weights are those in ${data.weightedBy}.` : ""}`),
  );
}

function describeCorrelation(i, j) {
  if (i === j) return names[i];
  const value = data.correlation[i][j];
  if (value === null) return `${names[i]} and ${names[j]}: no correlation, since one gets all phonemes right, or none`;
  return `${names[i]} and ${names[j]}: errors correlate by ${fixed(value, 3)}`;
}

function redundancyTable() {
  const nearest = (system) => {
    const others = data.redundancy.map((entry) => entry.system).filter((other) => other !== system);
    return others.length ? others.reduce((a, b) => (data.pairwise[system][a] <= data.pairwise[system][b] ? a : b)) : null;
  };
  const verdict = ({ system, alone, copy }) => {
    const reasons = [];
    if (copy !== null) reasons.push(`near copy of ${names[copy]}`);
    if (alone === 0 && data.redundancy.length > 1) reasons.push("never alone right");
    if (data.systems[system].weight === 0) reasons.push("without weight");
    return reasons.join(", ");
  };
  const columns = [
    { title: "member", value: ({ system }) => names[system] },
    { title: "weight", value: ({ system }) => data.systems[system].weight, text: (value) => fixed(value, 3), falling: true },
    { title: "distance", value: ({ system }) => mean(data.distances[system]), text: (value) => fixed(value, 3) },
    { title: "nearest member", value: ({ system }) => (nearest(system) === null ? "" : names[nearest(system)]) },
    { title: "apart", value: ({ system }) => (nearest(system) === null ? null : data.pairwise[system][nearest(system)]), text: (value) => fixed(value, 3) },
    { title: "error correlation with it", value: ({ system }) => (nearest(system) === null ? null : data.correlation[system][nearest(system)]), text: (value) => fixed(value, 3), falling: true },
    { title: "alone right", value: ({ alone }) => alone },
    { title: "redundant?", value: verdict },
  ];
  return dataTable({ label: "Redundant members", columns, items: data.redundancy }).element;
}

function drawErrors(section) {
  const share = (system, kind) => data.counts[system][kind] / utteranceCount;
  const columns = [
    { title: "system", value: (system) => names[system] },
    ...["substitutions", "insertions", "deletions"].map((title, kind) => ({ title: `${title} per utterance`, value: (system) => share(system, kind), text: (value) => fixed(value, 3) })),
    { title: "edits in all", value: (system) => sum(data.counts[system]) },
    { title: "errors per 100 phonemes", value: (system) => percent(sum(data.counts[system]), sum(data.lengths)), text: (value) => fixed(value) },
  ];
  const host = element("div");
  const select = choice(names, () => drawConfusions(host, Number(select.value)));
  section.append(
    paragraph("Edits that turn the reference into the hypothesis: a substitution replaces a phoneme, an insertion adds one, a deletion removes one."),
    dataTable({ label: "Substitutions, insertions and deletions", columns, items: names.map((_, system) => system) }).element,
    element("h3", {}, "Confusions"), labelled("System ", select), host,
  );
  drawConfusions(host, 0);
}

function drawConfusions(host, system) {
  const count = new Map(data.confusions[system].map(([expected, recognised, number]) => [expected * classes + recognised, number]));
  const largest = Math.max(1, ...count.values());
  const seen = (token) => token === 0 || data.phonemeCounts[token] || data.confusions[system].some((confusion) => confusion[1] === token);
  const order = similarTogether([...Array(classes).keys()].filter(seen));
  const labels = order.map(phoneme);
  const number = (row, column) => count.get(order[row] * classes + order[column]) || 0;
  const describe = (row, column) => {
    const [expected, recognised] = [order[row], order[column]];
    const [times, all] = [number(row, column), data.phonemeCounts[expected]];
    if (!expected && !recognised) return `${NOTHING} stands for nothing`;
    if (!expected) return `${phoneme(recognised)} inserted: ${counted(times, "time")}`;
    if (!all) return `${phoneme(expected)} does not occur in the reference`;
    if (expected === recognised) return `${phoneme(expected)}: right ${all - wrong(expected)} of ${all} times`;
    return `${phoneme(expected)} ${recognised ? `taken for ${phoneme(recognised)}` : "deleted"}: ${times} of ${all} times (${fixed(percent(times, all))} %)`;
  };
  const pairs = data.confusions[system].map(([expected, recognised, times]) => ({ expected, recognised, times }));
  const errors = phonemeErrors(system);
  const kinds = [["substituted", "substitutions"], ["deleted", "deletions"], ["inserted", "insertions"]];
  const wrong = (token) => errors[token].substitutions + errors[token].deletions;
  const rate = (token) => percent(wrong(token), data.phonemeCounts[token]);
  const tokens = order.filter((token) => token);
  const worst = Math.max(...tokens.map(rate).filter((value) => !Number.isNaN(value)));
  host.replaceChildren(
    paragraph(`Each row is a phoneme of the reference, each column the phoneme that was recognised instead; correct ones, on the diagonal, are left out. Stronger colours are more frequent confusions, up to ${counted(largest, "time")}. The row ${NOTHING} has insertions, the column ${NOTHING} deletions. English phonemes are grouped: vowels, stops, affricates, fricatives, nasals, liquids and glides.`),
    grid({ label: "Confusion matrix", cell: document.documentElement.clientWidth > 1100 ? 22 : 17, rows: labels, columns: labels, rowTitle: "reference", columnTitle: "recognised", shade: (row, column) => (row === column || !number(row, column) ? null : Math.sqrt(number(row, column) / largest)), describe }),
    element("div", { class: "columns" },
      titled("Most frequent confusions", dataTable({ label: "Most frequent confusions", sortedBy: 2, direction: -1, items: pairs, columns: [
        { title: "reference", value: (pair) => phoneme(pair.expected) },
        { title: "recognised", value: (pair) => phoneme(pair.recognised) },
        { title: "times", value: (pair) => pair.times, falling: true },
        { title: "% of the phoneme", value: (pair) => (pair.expected ? percent(pair.times, data.phonemeCounts[pair.expected]) : null), text: (value) => fixed(value, 1), falling: true },
      ] }).element),
      titled("Errors by phoneme", dataTable({ label: "Errors by phoneme", sortedBy: 2, direction: -1, items: tokens, columns: [
        { title: "phoneme", value: phoneme },
        { title: "count", value: (token) => data.phonemeCounts[token], falling: true },
        { title: "error %", value: rate, text: (value) => fixed(value, 1), shade: (token) => rate(token) / worst, falling: true },
        ...kinds.map(([title, kind]) => ({ title, value: (token) => errors[token][kind], falling: true })),
      ] }).element)),
  );
}

function drawSlices(section) {
  const lengths = lengthGroups();
  const line = (name, rates) => ({ name, points: rates.map((rate, index) => [index, rate]).filter((point) => !Number.isNaN(point[1])) });
  const byLength = names.map((name, system) => line(name, lengths.map((group) => errorRate(system, group.rows))));
  const parts = data.positionTotals.length;
  const byPosition = names.map((name, system) => line(name, data.positions[system].map((errors, part) => percent(errors, data.positionTotals[part]))));
  const yLabel = "errors per 100 phonemes";
  section.append(
    element("h3", {}, "By length"),
    chart({ label: "Errors by length", xLabel: "phonemes (utterances)", yLabel, series: byLength, xNames: lengths.map((group) => `${group.name} (${group.rows.length})`), height: 280 }),
    element("h3", {}, "By position"),
    chart({ label: "Errors by position", xLabel: "part of the utterance, from beginning to end", yLabel, series: byPosition, xNames: [...Array(parts).keys()].map((part) => `${(100 * part) / parts}–${(100 * (part + 1)) / parts} %`), height: 280 }),
    element("h3", {}, "By speaker"),
  );
  const speakers = speakerGroups();
  if (!speakers.length) return section.append(paragraph("The data name no speakers."));
  const rates = new Map(speakers.map((group) => [group, names.map((_, system) => errorRate(system, group.rows))]));
  const highest = Math.max(...[...rates.values()].flat().filter((rate) => !Number.isNaN(rate)));
  const columns = [
    { title: "speaker", value: (group) => group.name },
    { title: "utterances", value: (group) => group.rows.length, falling: true },
    { title: "mean, errors per 100", value: (group) => mean(rates.get(group)), text: (value) => fixed(value), falling: true, shade: (group) => mean(rates.get(group)) / highest },
    ...names.map((name, system) => ({ title: name, value: (group) => rates.get(group)[system], text: (value) => fixed(value), falling: true, shade: (group) => rates.get(group)[system] / highest })),
  ];
  section.append(dataTable({ label: "Errors by speaker", columns, items: speakers, sortedBy: 2, direction: -1 }).element);
}

function drawScores(section) {
  if (!data.scores.length) return section.append(paragraph("The ledger of python -m submit has no scored submission yet (--ledger-file)."));
  const estimates = [["nested", "nested out of fold"], ["dev", "dev"], ["oof", "out of fold, fitted"]];
  const series = estimates
    .map(([key, name]) => ({ name, pointsOnly: true, points: data.scores.filter((score) => score[key] !== null).map((score) => [score[key], score.public, `${score.file}, ${name} ${fixed(score[key], 3)}`]) }))
    .filter((line) => line.points.length);
  const number = (key, title) => ({ title, value: (score) => score[key], text: (value) => fixed(value, 3) });
  const columns = [{ title: "file", value: (score) => score.file }, number("nested", "nested"), number("oof", "oof"), number("dev", "dev"), number("public", "public"), number("private", "private"),
    { title: "public − nested", value: (score) => (score.nested === null ? null : score.public - score.nested), text: (value) => signed(value) }];
  if (series.length) section.append(chart({ label: "Cross-validation against leaderboard", xLabel: "our estimate, edits per utterance", yLabel: "public score", series, diagonal: true }), paragraph("On the dotted line the leaderboard says what we estimated; above it, it is worse."));
  section.append(dataTable({ label: "Scored submissions", columns, items: data.scores }).element);
}
