"""`python -m ensemble.report`: one HTML page about the members in the runs folder, and about a blend of them.

The page shows the members' distances and learning curves, the errors that each makes, how much they disagree, the
recipe and the distances in a submission's `.json`, and the hardest dev utterances slot by slot. Only the members'
baselines are fitted, and no submission is written. The page is one file without scripts or external resources.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import InputOptions, open_inputs
from ensemble.members.member import Member, group_by_member, measurable_on_dev
from ensemble.members.refits import with_refits
from ensemble.members.sidecar import read_sidecar
from ensemble.members.stores import StoresOptions
from ensemble.rover import NULL
from ensemble.statistics.blend_tables import member_table
from ensemble.statistics.confusions import EditCounts, count_edits
from ensemble.statistics.member_baselines import MemberBaseline, measure_members
from folds.competition.alphabets import Alphabet
from folds.competition.bootstrap import bootstrap, resampled_units
from folds.competition.metric import edit_distances
from folds.store.schemas import EpochMetrics
from registry import InputError, atomic_write, command
from registry.bounds import number
from registry.command_line import parse_options
from registry.json_files import read_json_lines

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem } td, th { padding: .15rem .6rem; text-align: right }
th { border-bottom: 1px solid #9aa4b2; font-weight: 600 } td:first-child, th:first-child { text-align: left }
code { font: 13px ui-monospace, monospace } .network td { padding: .1rem .25rem; text-align: center }
.same { color: #9aa4b2 } .wrong { background: #ffd9d4 } .right { background: #d9f2dc } svg { background: #f6f8fa }
"""


@dataclass(frozen=True)
class ReportOptions(InputOptions, StoresOptions):
    """Write a report about the finished members, and about the submission blended from them if there is one.

    With the same options as `ensemble.blend`, it shows the same distances.
    """

    out: Path = Path("report.html")
    """The page to write."""
    submission: Path = Path("submission.csv")
    """The submission of a blend; the `.json` beside it is shown if it exists."""
    members: tuple[str, ...] = ("*",)
    """Members to report on: globs over their names."""
    hardest: int = number(8, at_least=0, at_most=10_000)
    """Number of dev utterances to show slot by slot."""


def page(options: ReportOptions) -> str:
    """The whole page."""
    available = options.find_fold_models()
    measurable_on_dev(available, options.members)
    held_out = [model for model in available if model.folds > 1]
    if not held_out:
        runs = options.describe_runs()
        raise InputError(f"{runs}: no finished member with folds to report on; train one with python -m folds.train")
    dataset = options.open_dataset()
    members, _ = with_refits(group_by_member(held_out, options.members), available)
    inputs = open_inputs(members, dataset, options)
    oof, dev = inputs.oof, inputs.dev
    baselines = measure_members(inputs)
    notes = "".join(f"<div>{escape(note)}</div>" for note in inputs.notes)
    sections = [
        _section("Members", _members(inputs.members, baselines, inputs.dev_speakers) + notes),
        _section("Learning curves", _curves(inputs.members)),
        _section("The blend", _blend(options.submission)),
        _section("Errors out of fold", _errors(oof, dataset.alphabet)),
        _section("Disagreement on dev", _disagreement(dev)),
        _section("Distance and length", _lengths(dev, baselines)),
        _section("The hardest dev utterances", _hardest(dev, baselines, dataset.alphabet, options.hardest)),
    ]
    title = escape(dataset.root.name)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}: members and blend</title>"
        f"<style>{STYLE}</style><h1>{title}</h1>{''.join(sections)}</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


@dataclass(frozen=True)
class StyledCell:
    """A table cell with a CSS class."""

    text: str
    css_class: str


def table(header: Sequence[str], rows: Sequence[Sequence[object]], css_class: str = "") -> str:
    """An HTML table; the text of its cells is escaped, and floats have three digits."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table class='{css_class}'><tr>{head}</tr>{body}</table>"


def _cell(cell: object) -> str:
    if isinstance(cell, StyledCell):
        return f"<td class='{cell.css_class}'>{escape(cell.text)}</td>"
    return f"<td>{escape(f'{cell:.3f}' if isinstance(cell, float) else str(cell))}</td>"


def _members(members: Sequence[Member], baselines: Sequence[MemberBaseline], speakers: Sequence[str] | None) -> str:
    """The table that `ensemble.blend` prints, and intervals."""
    measured = member_table(members, baselines)
    intervals = [bootstrap(baseline.dev_lm, speakers) for baseline in baselines]
    measured["95 % interval with LM"] = [f"{interval.low:.2f} to {interval.high:.2f}" for interval in intervals]
    rows = list(measured.itertuples(index=False))
    return table(list(measured.columns), rows) + f"<p>Intervals are over {escape(resampled_units(speakers))}.</p>"


def _curves(members: Sequence[Member]) -> str:
    """Held-out greedy distance by epoch, one line per fold model."""
    curves = []
    for member in members:
        for fold_model in member.fold_models:
            path = fold_model.folder.metrics
            epochs = read_json_lines(path, EpochMetrics) if path.exists() else []
            points = [(epoch.epoch, epoch.held_out) for epoch in epochs if epoch.held_out is not None]
            if points:
                curves.append((f"{member.name} fold {fold_model.fold}", points))
    if not curves:
        return "<p>The runs have no metrics.</p>"
    return _line_chart(curves) + "<p>Held-out distance (greedy) by epoch.</p>"


def _line_chart(curves: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> str:
    """An SVG chart of named curves, lists of (x, y).

    Its top is the highest second y of all curves, because the first epoch is far above the others.
    """
    last = max(x for _, points in curves for x, _ in points)
    top = max(points[min(1, len(points) - 1)][1] for _, points in curves) or 1.0
    lines = []
    for i, (name, points) in enumerate(curves):
        colour = f"hsl({i * 137 % 360} 60% 45%)"
        path = " ".join(f"{40 + 560 * x / last:.1f},{250 - 230 * min(y / top, 1):.1f}" for x, y in points)
        lines.append(f"<polyline fill=none stroke='{colour}' stroke-width=1.5 points='{path}'/>")
        label = f"{escape(name)} {points[-1][1]:.2f}"
        lines.append(f"<text x=610 y={20 + 15 * i} font-size=11 fill='{colour}'>{label}</text>")
    axes = f"<text x=2 y=20 font-size=11>{top:.1f}</text><text x=590 y=268 font-size=11>{last}</text>"
    height = max(280, 30 + 15 * len(curves))
    return f"<svg width=860 height={height}>{axes}{''.join(lines)}</svg>"


def _blend(submission: Path) -> str:
    """The recipe and the distances of a blend, from the JSON file beside its submission."""
    path = submission.with_name(submission.name + ".json")
    if not path.exists():
        return f"<p>There is no {escape(str(path))}; write one with <code>python -m ensemble.blend</code>.</p>"
    description = read_sidecar(submission)
    recipe, difference = description.recipe, description.dev_minus_best_member
    settings = json.dumps(recipe.settings, indent=1)
    results = (
        "no results"
        if difference is None
        else (
            f"out of fold {description.oof:.3f} fitted, {description.nested:.3f} nested; "
            f"dev {description.dev:.3f}, which is {difference.mean:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}] against {escape(difference.member)}"
        )
    )
    return (
        f"<p>{escape(str(submission))}: method {escape(recipe.method)}; {results}; "
        f"{description.parameters:,} parameters; tags: {escape(', '.join(description.tags) or 'none')}</p>"
        f"{table(['member', 'weight'], list(recipe.weights.items()))}<pre><code>{escape(settings)}</code></pre>"
    )


def _errors(oof: BlendInputs, alphabet: Alphabet) -> str:
    counts = [count_edits(oof.nbest(index).best, oof.references) for index in oof.prediction_indices()]
    rows = [
        [name, edits.substitutions / len(oof), edits.insertions / len(oof), edits.deletions / len(oof)]
        for name, edits in zip(oof.names, counts, strict=True)
    ]
    header = ["member", "substitutions per utterance", "insertions", "deletions"]
    return table(header, rows) + _confusions(counts, alphabet, len(oof) * len(counts))


def _confusions(counts: Sequence[EditCounts], alphabet: Alphabet, utterances: int) -> str:
    total: Counter[tuple[int, int]] = Counter()
    for edits in counts:
        total.update(edits.pairs)
    phonemes = ["(none)", *alphabet.phonemes[1:]]
    most_frequent = sorted(total, key=lambda pair: (-total[pair], pair))[:20]
    rows = [
        [f"{phonemes[recognised]} for {phonemes[reference]}", total[reference, recognised] / utterances]
        for reference, recognised in most_frequent
    ]
    return table(["recognised for reference, all members", "per utterance"], rows)


def _disagreement(dev: BlendInputs) -> str:
    best = {index: dev.nbest(index).best for index in dev.prediction_indices()}
    names = [dev.split.predictions[index].name for index in best]
    rows = [
        [name, *(float(edit_distances(ours, theirs).mean()) for theirs in best.values())]
        for name, ours in zip(names, best.values(), strict=True)
    ]
    return table(["edits between hypotheses", *names], rows)


def _lengths(dev: BlendInputs, baselines: Sequence[MemberBaseline]) -> str:
    lengths = np.array([len(reference) for reference in dev.references])
    edges = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (lengths >= low) & ((lengths < high) | (high == edges[-1]) & (lengths == high))
        phonemes = max(lengths[inside].sum(), 1)
        rates = [float(100 * baseline.dev[inside].sum() / phonemes) for baseline in baselines]
        rows.append([f"{low} to {high} phonemes", int(inside.sum()), *rates])
    return table(["length", "utterances", *(f"{baseline.name}, error %" for baseline in baselines)], rows)


def _hardest(dev: BlendInputs, baselines: Sequence[MemberBaseline], alphabet: Alphabet, count: int) -> str:
    """Confusion networks of the utterances with the most errors, with the reference above all fold models."""
    mean = np.mean([baseline.dev for baseline in baselines], axis=0)
    predictions = dev.split.predictions
    order = sorted(dev.prediction_indices(), key=lambda index: float(baselines[predictions[index].member].dev.mean()))
    names = ["reference", *(predictions[index].name for index in order)]
    networks = []
    for row in np.argsort(-mean, kind="stable")[:count]:
        arcs = dev.confusion_network(int(row), order, dev.references[row]).arcs
        title = f"<h3>{escape(dev.split.ids[row])}: {mean[row]:.1f} edits on average</h3>"
        networks.append(title + _network_table(arcs, names, alphabet))
    return "<div style='overflow-x:auto'>" + "".join(networks) + "</div>"


def _network_table(arcs: np.ndarray, names: Sequence[str], alphabet: Alphabet) -> str:
    """A table with a row per system of `arcs` (slots, systems), the reference first; slots where all agree are grey."""
    agreed = (arcs == arcs[:, :1]).all(axis=1)
    rows = []
    for name, tokens in zip(names, arcs.T, strict=True):
        classes = np.where(agreed, "same", np.where(tokens == arcs[:, 0], "right", "wrong"))
        texts = ["·" if token == NULL else alphabet.phonemes[token] for token in tokens.tolist()]
        rows.append([name, *(StyledCell(text, kind) for text, kind in zip(texts, classes.tolist(), strict=True))])
    return table([""] * (len(arcs) + 1), rows, "network")


def main() -> None:
    """Run the command."""
    options = parse_options(ReportOptions, "python -m ensemble.report", description=__doc__)
    options.use_threads()
    html = page(options)
    with atomic_write(options.out) as temporary:
        # Names of folders need not be UTF-8.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    command(main)
