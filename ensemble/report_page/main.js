// Fill the sections that the page has.

const openUtterance = utteranceWindow();
const drawings = { compare: drawCompare, curves: drawCurves, diversity: drawDiversity, errors: drawErrors, slices: drawSlices, scores: drawScores, utterances: drawUtterances };
document.querySelectorAll("table.sortable").forEach(sortable);
for (const [name, draw] of Object.entries(drawings)) {
  const section = document.getElementById(name);
  if (section) draw(section, openUtterance);
}
document.documentElement.dataset.ready = "true";
