"""The report of a study: Optuna's plots in one self-contained HTML file."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folds.tuning.stages import Stage
from folds.tuning.study import StudyPaths
from folds.tuning.trials import latest_stages
from registry.files import atomic_write

if TYPE_CHECKING:
    import optuna

FEW_TRIALS = 4
"""With fewer trials, importances and parallel coordinates mean nothing."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write_page(path: Path, title: str, parts: Sequence[tuple[str, str, Any]]) -> None:
    """Write an HTML file with Plotly figures; each part is (heading, text below it, figure or None)."""
    body, library = [], True
    for heading, text, figure in parts:
        body.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>")
        if figure is not None:
            # The library is 4 MB, so only the first figure includes it.
            body.append(figure.to_html(full_html=False, include_plotlyjs=library, include_mathjax=False))
            library = False
    with atomic_write(path) as temporary:
        temporary.write_text(_PAGE.format(title=html.escape(title), body="\n".join(body)), encoding="utf-8")


def write_report(paths: StudyPaths, study: optuna.Study, stages: Sequence[Stage], title: str, lines: str) -> None:
    """Write the study's report; `lines` states the result in words."""
    from optuna import visualization

    first = first_stage(study, stages[0])
    stage = f"{stages[0].minutes:.2g} minutes on {stages[0].speakers:.0%} of the speakers"
    every = f"All trials after the first stage, {stage}"
    name = "held-out distance"
    drawn: list[tuple[str, str, Callable[[], Any]]] = [
        (
            "Importance",
            f"{every}: how much each option tells the best tenth of them from the others (PED-ANOVA).",
            lambda: visualization.plot_param_importances(first, target_name=name),
        ),
        ("History", f"{every}.", lambda: visualization.plot_optimization_history(first, target_name=name)),
        ("Parallel coordinates", f"{every}.", lambda: visualization.plot_parallel_coordinate(first, target_name=name)),
        (
            "Intermediate values",
            "The distance after each stage, by its length in first stages; the last one is the mean of two folds.",
            lambda: visualization.plot_intermediate_values(_latest_stages(study)),
        ),
    ]
    parts: list[tuple[str, str, Any]] = [("Result", lines, None)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about equal importances, which the plot shows
        for heading, text, draw in drawn:
            enough = len(first.trials) >= FEW_TRIALS
            parts.append((heading, text, draw()) if enough else (heading, "Too few trials.", None))
    write_page(paths.report, title, parts)


def first_stage(study: optuna.Study, stage: Stage) -> optuna.Study:
    """An in-memory study of the distances after the first stage, the only ones that all trials have.

    Optuna's plots leave out pruned trials.
    """
    import optuna

    copy = optuna.create_study(direction="minimize")
    for trial in latest_stages(study):
        if stage.step in trial.intermediate_values:
            copy.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    value=trial.intermediate_values[stage.step],
                )
            )
    return copy


def _latest_stages(study: optuna.Study) -> optuna.Study:
    """An in-memory study with each trial once, in its latest stage, which has the distances of earlier stages, too."""
    import optuna

    copy = optuna.create_study(direction="minimize")
    copy.add_trials(latest_stages(study))
    return copy
