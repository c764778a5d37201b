// The data embedded in the page, and values derived from them. Class 0 means no phoneme; in posteriors it is the blank.

const data = JSON.parse(document.getElementById("data").textContent);
const names = data.systems.map((system) => system.name);
const symbolNumber = new Map([...data.symbols].map((symbol, number) => [symbol, number]));
const classes = data.phonemes.length;
const utteranceCount = data.ids.length;
const targetName = data.labelled ? "reference" : names[0];

const NOTHING = "∅";

function phoneme(token) {
  return token ? data.phonemes[token] : NOTHING;
}

// English phonemes by manner of articulation: vowels, stops, affricates, fricatives, nasals, and the rest.
const BY_MANNER = "IY IH EH EY AE AA AH AO OW UH UW AW AY OY ER P B T D K G CH JH F V TH DH S Z SH ZH HH M N NG L R W Y".split(" ");

// Sorts similar phonemes next to each other, so that likely confusions are near the diagonal; others come first.
function similarTogether(tokens) {
  const place = (token) => BY_MANNER.indexOf(data.phonemes[token]);
  return [...tokens].sort((a, b) => place(a) - place(b) || a - b);
}

function targetOf(row) {
  const text = data.targets[row];
  return text === null ? null : [...text].map((symbol) => symbolNumber.get(symbol));
}

// The edits that turn the target into a system's hypothesis: kind, place in the target, expected and recognised class.
function editsOf(row, system) {
  if (data.edits[row] === null) return null;
  const target = targetOf(row);
  const characters = [...data.edits[row][system]];
  const edits = [];
  let at = 0;
  for (let i = 0; i < characters.length; i += 2) {
    at += symbolNumber.get(characters[i]);
    const number = symbolNumber.get(characters[i + 1]);
    if (number >= classes) edits.push({ kind: "insertion", at, expected: 0, recognised: number - classes });
    else if (number === 0) edits.push({ kind: "deletion", at, expected: target[at], recognised: 0 });
    else edits.push({ kind: "substitution", at, expected: target[at], recognised: number });
  }
  return edits;
}

function describeEdit(edit) {
  if (edit.kind === "insertion") return `${phoneme(edit.recognised)} inserted before ${edit.at + 1}`;
  if (edit.kind === "deletion") return `${phoneme(edit.expected)} deleted at ${edit.at + 1}`;
  return `${phoneme(edit.recognised)} for ${phoneme(edit.expected)} at ${edit.at + 1}`;
}

// One column per phoneme of the target, and columns for insertions in between: the class in each row, 0 for none.
function alignment(row) {
  const target = targetOf(row);
  const all = data.systems.map((_, system) => editsOf(row, system));
  const inserted = all.map((edits) => {
    const gaps = Array.from({ length: target.length + 1 }, () => []);
    for (const edit of edits) if (edit.kind === "insertion") gaps[edit.at].push(edit.recognised);
    return gaps;
  });
  const replaced = all.map((edits) => {
    const tokens = [...target];
    for (const edit of edits) if (edit.kind !== "insertion") tokens[edit.at] = edit.recognised;
    return tokens;
  });
  const columns = [];
  for (let at = 0; at <= target.length; at++) {
    const width = Math.max(0, ...inserted.map((gaps) => gaps[at].length));
    for (let k = 0; k < width; k++) columns.push({ target: 0, systems: inserted.map((gaps) => gaps[at][k] || 0) });
    if (at < target.length) columns.push({ target: target[at], systems: replaced.map((tokens) => tokens[at]) });
  }
  return columns;
}

function hypothesisOf(row, system) {
  return alignment(row).map((column) => column.systems[system]).filter((token) => token !== 0);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// Posteriors as one row of `classes` probabilities per frame; the blank gets what the others lack to 1.
function unpackPosteriors(packed) {
  const values = bytes(packed.data);
  const rows = Array.from({ length: packed.frames }, () => new Float32Array(classes));
  let frame = 0;
  for (let i = 0; i < values.length; i += 3) {
    frame += values[i];
    if (values[i + 1]) rows[frame][values[i + 1]] = values[i + 2] / 255;
  }
  for (const row of rows) row[0] = Math.max(0, 1 - sum([...row]));
  return rows;
}

// Errors of one system by phoneme: substitutions and deletions of the expected one, insertions of the recognised one.
function phonemeErrors(system) {
  const errors = Array.from({ length: classes }, () => ({ substitutions: 0, deletions: 0, insertions: 0 }));
  for (const [expected, recognised, count] of data.confusions[system]) {
    if (expected === 0) errors[recognised].insertions += count;
    else if (recognised === 0) errors[expected].deletions += count;
    else errors[expected].substitutions += count;
  }
  return errors;
}

// Utterances in four groups of similar size, by length.
function lengthGroups() {
  const sorted = [...data.lengths].sort((a, b) => a - b);
  const edges = [0.25, 0.5, 0.75].map((part) => sorted[Math.floor(part * (sorted.length - 1))]);
  const limits = [...new Set([...edges, sorted[sorted.length - 1]])];
  let low = sorted[0];
  return limits.map((high) => {
    const rows = data.lengths.flatMap((length, row) => (length >= low && length <= high ? [row] : []));
    const name = low === high ? `${low}` : `${low} to ${high}`;
    low = high + 1;
    return { name, rows };
  }).filter((group) => group.rows.length);
}

function speakerGroups() {
  const groups = new Map();
  (data.speakers || []).forEach((speaker, row) => {
    if (!groups.has(speaker)) groups.set(speaker, { name: speaker, rows: [] });
    groups.get(speaker).rows.push(row);
  });
  return [...groups.values()];
}

// A system's errors per 100 phonemes on the utterances `rows`.
function errorRate(system, rows) {
  const phonemes = sum(rows.map((row) => data.lengths[row]));
  return percent(sum(rows.map((row) => data.distances[system][row])), phonemes);
}
