"""`python -m ensemble.report`: one HTML page on the members under a folder of runs, and on the blend made of them.

Members' distances and learning curves, what each gets wrong, how far they disagree, the recipe and figures of a
submission's sidecar, and the hardest dev utterances slot by slot. It measures; it fits nothing and writes no
submission. The page is one file without scripts and without anything from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import tyro

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import open_inputs
from ensemble.members.member import Member, group_by_member, with_held_out
from ensemble.rover import NULL
from ensemble.statistics.bootstrap import bootstrap
from ensemble.statistics.confusions import EditCounts, count_edits
from ensemble.statistics.member_baselines import MemberBaseline, alone
from folds.competition.alphabets import Alphabet
from folds.competition.detect import data_root
from folds.competition.metric import edit_distances
from folds.data.cache import load_dataset
from folds.store.fold_model import find_fold_models
from registry import InputError, atomic_write, command

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem } td, th { padding: .15rem .6rem; text-align: right }
th { border-bottom: 1px solid #9aa4b2; font-weight: 600 } td:first-child, th:first-child { text-align: left }
code { font: 13px ui-monospace, monospace } .network td { padding: .1rem .25rem; text-align: center }
.same { color: #9aa4b2 } .wrong { background: #ffd9d4 } .right { background: #d9f2dc } svg { background: #f6f8fa }
"""


@dataclass(frozen=True)
class ReportOptions:
    """Write a report on the finished members, and on the submission blended from them if there is one."""

    data: Path | None = None
    """The competition's folder; else $HW3P2_DATA, else the demo's."""
    runs: Path = Path("runs")
    """Folder of trained members."""
    out: Path = Path("report.html")
    """The page to write."""
    submission: Path = Path("submission.csv")
    """A blend's submission; what its `.json` says is shown where it exists."""
    members: tuple[str, ...] = ("*",)
    """Globs over members' names."""
    hardest: int = 8
    """How many dev utterances to show slot by slot."""
    allow_pickle: bool = False
    """Read object arrays of the competition's files."""


def page(options: ReportOptions) -> str:
    """The whole page."""
    found, _ = with_held_out(find_fold_models(options.runs))
    if not found:
        raise InputError(f"{options.runs}: no finished member to report on; train one with python -m folds.train")
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    groups = group_by_member(found, options.members)
    opened = open_inputs(groups, dataset, lm_order=2)
    oof, dev = (BlendInputs(opened.splits[split], depth=20) for split in ("oof", "dev"))
    singles = alone(oof, dev)
    sections = [
        _section("Members", _members(groups, singles) + "".join(f"<div>{escape(n)}</div>" for n in opened.notes)),
        _section("Learning curves", _curves(groups)),
        _section("The blend", _sidecar(options.submission)),
        _section("Errors out of fold", _errors(oof, dataset.alphabet)),
        _section("Disagreement on dev", _disagreement(dev)),
        _section("Distance and length", _lengths(dev, singles)),
        _section("The hardest dev utterances", _networks(dev, singles, dataset.alphabet, options.hardest)),
    ]
    title = escape(dataset.root.name)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}: members and blend</title>"
        f"<style>{STYLE}</style><h1>{title}</h1>{''.join(sections)}</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], kind: str = "") -> str:
    """An HTML table; cells are escaped unless they are `Markup`."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table class='{kind}'><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class Markup:
    """A table cell with a class of its own."""

    text: str
    kind: str


def _cell(cell: object) -> str:
    if isinstance(cell, Markup):
        return f"<td class='{cell.kind}'>{escape(cell.text)}</td>"
    return f"<td>{escape(f'{cell:.3f}' if isinstance(cell, float) else str(cell))}</td>"


def _members(groups: Sequence[Member], singles: Sequence[MemberBaseline]) -> str:
    rows = []
    for group, each in zip(groups, singles, strict=True):
        sure = bootstrap(each.best_dev)
        folds = ", ".join(map(str, group.folds))
        interval = f"{sure.low:.2f} to {sure.high:.2f}"
        numbers = [float(d.mean()) for d in (each.oof, each.dev, each.dev_mean, each.dev_lm)]
        rows.append([group.name, folds, f"{group.parameters:,}", group.members[0].stride, *numbers, interval])
    measured = ["oof", "dev, a fold", "dev, mean frame", "dev, with LM", "95 % on dev"]
    header = ["member", "folds", "parameters", "stride", *measured]
    return table(header, rows)


def _curves(groups: Sequence[Member]) -> str:
    """Held-out greedy distance by epoch, one line a fold model."""
    lines = []
    for group in groups:
        for member in group.members:
            path = member.path / "metrics.jsonl"
            rows = [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
            points = [(row["epoch"], row["held_out"]) for row in rows if row.get("held_out") is not None]
            if points:
                lines.append((f"{group.name} fold {member.fold}", points))
    if not lines:
        return "<p>No metrics were kept.</p>"
    last = max(x for _, points in lines for x, _ in points)
    top = max(points[min(1, len(points) - 1)][1] for _, points in lines)
    drawn = []
    for i, (name, points) in enumerate(lines):
        colour = f"hsl({i * 137 % 360} 60% 45%)"
        path = " ".join(f"{40 + 560 * x / last:.1f},{250 - 230 * min(y / top, 1):.1f}" for x, y in points)
        drawn.append(f"<polyline fill=none stroke='{colour}' stroke-width=1.5 points='{path}'/>")
        label = f"{escape(name)} {points[-1][1]:.2f}"
        drawn.append(f"<text x=610 y={20 + 15 * i} font-size=11 fill='{colour}'>{label}</text>")
    axes = f"<text x=2 y=20 font-size=11>{top:.1f}</text><text x=590 y=268 font-size=11>{last}</text>"
    height = max(280, 30 + 15 * len(lines))
    return f"<svg width=860 height={height}>{axes}{''.join(drawn)}</svg><p>Held-out distance (greedy) by epoch.</p>"


def _sidecar(submission: Path) -> str:
    path = submission.with_name(submission.name + ".json")
    if not path.exists():
        return f"<p>No {escape(str(path))}: make one with <code>python -m ensemble.blend</code>.</p>"
    told = json.loads(path.read_text(encoding="utf-8"))
    versus = told["dev_minus_best_member"]
    rows = [[name, weight] for name, weight in told["recipe"]["weights"].items()]
    settings = json.dumps(told["recipe"]["settings"], indent=1)
    return (
        f"<p>{escape(str(submission))}: method {escape(told['recipe']['method'])}; "
        f"out of fold {told['oof']:.3f} fitted, {told['nested']:.3f} nested; "
        f"dev {told['dev']:.3f}, which is {versus['mean']:+.3f} "
        f"[{versus['low']:+.3f}, {versus['high']:+.3f}] against {escape(versus['member'])}; "
        f"{told['parameters']:,} parameters; tags: {escape(', '.join(told['tags']) or 'none')}</p>"
        f"{table(['member', 'weight'], rows)}<pre><code>{escape(settings)}</code></pre>"
    )


def _errors(oof: BlendInputs, alphabet: Alphabet) -> str:
    counted = [
        count_edits([list(s[0]) for s in oof.nbest(stream).strings], oof.references) for stream in oof.predictions_of()
    ]
    rows = [
        [name, each.substitutions / len(oof), each.insertions / len(oof), each.deletions / len(oof)]
        for name, each in zip(oof.names, counted, strict=True)
    ]
    header = ["member", "substitutions an utterance", "insertions", "deletions"]
    return table(header, rows) + _confusions(counted, alphabet, len(oof) * len(counted))


def _confusions(counted: Sequence[EditCounts], alphabet: Alphabet, utterances: int) -> str:
    total: dict[tuple[int, int], int] = {}
    for each in counted:
        for pair, count in each.pairs.items():
            total[pair] = total.get(pair, 0) + count
    phoneme = ["(nothing)", *alphabet.phonemes[1:]]
    top = sorted(total, key=lambda pair: (-total[pair], pair))[:20]
    rows = [[f"{phoneme[said]} for {phoneme[true]}", total[true, said] / utterances] for true, said in top]
    return table(["heard for spoken, all members", "an utterance"], rows)


def _disagreement(dev: BlendInputs) -> str:
    best = {stream: [list(s[0]) for s in dev.nbest(stream).strings] for stream in dev.predictions_of()}
    names = [dev.split.predictions[stream].name for stream in best]
    rows = []
    for a, name in zip(best, names, strict=True):
        rows.append([name, *(float(edit_distances(best[a], best[b]).mean()) for b in best)])
    return table(["edits between strings", *names], rows)


def _lengths(dev: BlendInputs, singles: Sequence[MemberBaseline]) -> str:
    lengths = np.array([len(reference) for reference in dev.references])
    edges = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int)
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (lengths >= low) & ((lengths < high) | (high == edges[-1]) & (lengths == high))
        rates = [float(100 * each.dev[inside].sum() / max(lengths[inside].sum(), 1)) for each in singles]
        rows.append([f"{low} to {high} phonemes", int(inside.sum()), *rates])
    return table(["length", "utterances", *(f"{each.name}, error %" for each in singles)], rows)


def _networks(dev: BlendInputs, singles: Sequence[MemberBaseline], alphabet: Alphabet, count: int) -> str:
    """Confusion networks of all fold models, the reference above: grey where all agree, coloured by who is right."""
    mean = np.mean([each.dev for each in singles], axis=0)
    order = sorted(dev.predictions_of(), key=lambda s: float(singles[dev.split.predictions[s].member].dev.mean()))
    names = ["reference", *(dev.split.predictions[stream].name for stream in order)]
    shown = []
    for row in np.argsort(-mean, kind="stable")[:count]:
        network = dev.network(int(row), order, dev.references[row])
        cells = []
        for name, column in zip(names, network.arcs.T, strict=True):
            marked = []
            for slot, token in enumerate(column.tolist()):
                text = "·" if token == NULL else alphabet.phonemes[token]
                agreed = len(set(network.arcs[slot].tolist())) == 1
                right = token == network.arcs[slot, 0]
                marked.append(Markup(text, "same" if agreed else "right" if right else "wrong"))
            cells.append([name, *marked])
        title = f"<h3>{escape(dev.panel.ids[row])}: {mean[row]:.1f} edits on average</h3>"
        shown.append(title + table([""] * (len(network.arcs) + 1), cells, "network"))
    return "<div style='overflow-x:auto'>" + "".join(shown) + "</div>"


def main() -> None:
    """The command."""
    options = tyro.cli(ReportOptions, prog="python -m ensemble.report", description=__doc__)
    text = page(options)
    with atomic_write(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    command(main)
