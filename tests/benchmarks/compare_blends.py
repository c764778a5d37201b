"""What one blend gains over another and over the strongest network of the other, on dev.

`python tests/benchmarks/compare_blends.py SUBMISSION OTHER [--data DIR]` reads what `ensemble.blend` keeps beside both
submissions, and prints the first one's distance on dev and its paired differences with 95 % intervals over speakers.
Networks adapted by the other blend's hypotheses are no baseline for what blending gains, and the other's are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ensemble.statistics.blend_tables import describe_difference, describe_level
from ensemble.statistics.measured import Measured, measured_path
from ensemble.statistics.member_baselines import strongest
from folds.competition.bootstrap import bootstrap
from folds.data.data_options import DataOptions
from registry import command
from registry.command_line import parse_options
from registry.json_files import read_json


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Compare two submissions of `ensemble.blend` on dev."""

    submission: tyro.conf.Positional[Path]
    """The submission to judge."""
    other: tyro.conf.Positional[Path]
    """The one that it is compared with."""


def main() -> None:
    """Compare the two submissions."""
    options = parse_options(Options, "compare_blends.py")
    dataset = options.open_dataset()
    ours, other = (
        read_json(measured_path(path), Measured, "blend again") for path in (options.submission, options.other)
    )
    speakers = dataset.dev.groups
    dev = np.array(ours.blenders[ours.chosen].dev)
    alternative = strongest(other.baselines(dataset.alphabet))
    print(f"{options.submission}, {ours.chosen}: {describe_level(bootstrap(dev, speakers))}")
    for name, distances in (
        (f"{options.other}, {other.chosen}", np.array(other.blenders[other.chosen].dev)),
        (f"{alternative.name} of {options.other}", alternative.dev),
    ):
        print(f"against {name}, {distances.mean():.3f}: {describe_difference(dev, distances, speakers)}")


if __name__ == "__main__":
    command(main)
