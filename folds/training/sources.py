"""Check what a run needs from other runs, before the first of many runs starts, which may take hours."""

from __future__ import annotations

from folds.training.blend_hypotheses import find_nbest_file
from folds.training.guide import find_guide
from folds.training.options import TrainOptions
from folds.training.warm_restart import find_source
from registry import InputError


def check_sources(options: TrainOptions, model: str, fold: int) -> None:
    """Raise InputError unless the guide, the teacher and the initial weights of this model and fold exist.

    The weights are needed only until it has a checkpoint of its own.
    """
    if options.restart_from is not None and not options.run_folder(model, fold).has_results:
        source = find_source(options.restart_from, options.name or model, fold, options.seed, options.folds)
        if source.model != model:
            raise InputError(
                f"--restart-from {options.restart_from}: {source.path} was trained with a model other than {model}: "
                "use the same here"
            )
    if options.guide is not None:
        find_guide(options.guide, fold)
    if options.teacher is not None:
        find_nbest_file(options.teacher, "--teacher")
