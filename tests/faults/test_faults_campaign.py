"""Some twenty cases of each kind of the fault campaign; `make faults` runs them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.campaign import GOOD, Campaign, select
from faults.cases import Case, Option, options_of
from faults.fork_server import ForkServer, Invocation, command_modules

CASES_OF_EACH_KIND = 24


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with ForkServer() as server:
        yield Campaign(tmp_path_factory.mktemp("faults"), server)


@pytest.fixture(scope="module")
def cases(campaign: Campaign) -> list[Case]:
    return select(campaign.cases(flips=30), [], CASES_OF_EACH_KIND, "")


KINDS = (
    *("numbers", "paths", "texts", "environment", "features", "transcripts", "object arrays"),
    *("json", "json lines", "safetensors", "HDF5", "text files", "recordings", "names"),
    *("lists", "surroundings", "tables", "stores"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_one_line_or_accepted_where_it_may_be(campaign: Campaign, cases: list[Case], kind: str) -> None:
    chosen = [case for case in cases if case.kind == kind]
    assert len(chosen) >= 15
    outcomes = [(*campaign.run(case), str(case)) for case in chosen]
    assert [outcome for outcome in outcomes if outcome[0] not in GOOD] == []


def test_all_kinds_are_tested(cases: list[Case]) -> None:
    assert {case.kind for case in cases} == set(KINDS)


def test_the_campaign_sees_what_it_looks_for(campaign: Campaign, tmp_path: Path) -> None:
    def outcome(**changes: object) -> str:
        case = Case("texts", "probe", "registry.__main__", ["gru_small"])
        return campaign.run(Case(**vars(case) | changes))[0]  # type: ignore[arg-type]

    assert outcome() == "accepted"
    assert outcome(allowed=("refused",)) == "silent acceptance"
    assert outcome(arguments=["no_such"], allowed=("accepted",)) == "refused"
    assert outcome(arguments=["no_such"]) == "one line"
    hung = campaign.server.run(Invocation("registry.__main__", [], tmp_path, wall_seconds=0.01))
    assert hung.hung


def test_commands_and_their_options_are_found(campaign: Campaign) -> None:
    modules = command_modules()
    assert {"folds.train", "folds.demo", "ensemble.blend", "registry.__main__", "submit.__main__"} <= set(modules)
    options = options_of(campaign.help_of("folds.train", ["--model", "lstm_small"]))
    assert {"--epochs", "--lr", "--hidden", "--restart-from", "--seed"} <= {option.name for option in options}
    by_name = {option.name: option for option in options}
    assert by_name["--lr"].is_number and by_name["--guide"].is_path and by_name["--name"].is_text
    assert Option("--runs", "[PATH [PATH ...]]").is_path and not Option("--split", "{oof,dev,test}").is_text
