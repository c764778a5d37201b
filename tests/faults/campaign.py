"""The fault campaign: bad input to every command, and what became of it.

    python tests/faults/campaign.py              all cases (`make faults`)
    python tests/faults/campaign.py --most 30    30 of each kind
    python tests/faults/campaign.py --kind json  one kind
    python tests/faults/campaign.py --jobs 2     two cases at a time

Good outcomes are "one line" (exit status 2 and one line of error) and "accepted" where that is allowed. All others are
failures: they are listed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import queue
import re
import shutil
import stat
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import file_cases, hdf5_cases, odd_cases
from faults.cases import Case, environment_cases, model_cases, option_cases, options_of
from faults.fork_server import ForkServer, Invocation, Result, command_modules
from faults.stage import Stage

GOOD = ("one line", "accepted")
MODELS = ("pblstm_small", "cnn_lstm_small", "conformer_small", "las_small")
_SPEED = re.compile(r"\d+(\.\d+)? (CPU-)?(utterances/\S+|s\b|min\S*|frames/s)")
_TEMPORARY = re.compile(r"^\.|\.tmp$|hw3p2-internal-error")
# The kaggle client, when it has no credentials, and progress that is no error.
_NOTES = re.compile(r"^(warning: |left out: |data: |  |note: |\s*$)")
MAX_LINE = 2500
IN_MEMORY = Path("/dev/shm")
HOMES = ("home/", "missing/")
"""Home folders of cases, of which "missing" is made by the kaggle client: libraries keep files there."""
WITHOUT_STDERR = ("stderr closed", "all closed")
"""Surroundings in which nobody can read the line."""


class Campaign:
    """Runs cases in a folder of its own and says what became of each."""

    def __init__(self, folder: Path, server: ForkServer, stage: Stage | None = None) -> None:
        """The valid inputs are made in `folder`, unless those of another campaign are given."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.server = folder, server
        self.stage = stage or Stage.make(folder / "stage", server)
        self._expected: dict[tuple[str, ...], str] = {}

    def help_of(self, module: str, arguments: list[str]) -> str:
        """The text of `--help`."""
        return self.server.run(Invocation(module, [*arguments, "--help"], self.stage.folder)).out

    def cases(self, flips: int) -> Iterator[Case]:
        """All cases; `flips` is how many random bits of each file are tried."""
        modules = command_modules()
        for module in modules:
            yield from option_cases(module, options_of(self.help_of(module, [])))
        yield from model_cases(self.help_of, list(MODELS))
        yield from environment_cases(modules)
        yield from file_cases.array_cases(flips)
        yield from file_cases.object_array_cases()
        yield from file_cases.json_cases(self.stage.folder)
        yield from file_cases.tensor_cases(self.stage.folder, flips)
        yield from hdf5_cases.hdf5_cases(flips)
        yield from file_cases.text_cases(flips)
        yield from file_cases.recording_cases(flips)
        yield from file_cases.layout_cases()
        yield from odd_cases.list_cases()
        yield from odd_cases.surroundings_cases(modules)
        yield from odd_cases.table_cases()
        yield from odd_cases.store_cases()

    def run(self, case: Case) -> tuple[str, str]:
        """The outcome of a case, and the last lines that it printed."""
        work = self.folder / "case"
        shutil.rmtree(work, ignore_errors=True)
        self.stage.copy(work)
        if case.prepare is not None:
            case.prepare(work)
        before = _types(work)
        result = self._call(case, work, case.environment)
        outcome = self._outcome(case, work, before, result)
        return outcome, " | ".join((result.err or result.out).splitlines()[-3:])

    def _call(self, case: Case, work: Path, environment: dict[str, str]) -> Result:
        variables = Stage.environment(work) | environment
        return self.server.run(Invocation(case.module, case.arguments, work, variables, surroundings=case.surroundings))

    def _outcome(self, case: Case, work: Path, before: dict[str, int], result: Result) -> str:
        if result.hung:
            return "hang"
        if result.status < 0:
            return "crash"
        if "Traceback (most recent call last)" in result.err + result.out:
            return "traceback"
        if result.status == 70:
            return "internal error"
        after = _types(work)
        if any(after.get(path) != kind for path, kind in before.items() if path.startswith("special/")):
            return "special file replaced"
        if any(_TEMPORARY.search(path.rpartition("/")[2]) for path in after.keys() - before.keys()):
            return "leftover"
        if result.status == 0 or (result.status == 1 and case.module.startswith("submit")):
            return self._accepted(case, work, result)
        if result.status != 2:
            return f"exit status {result.status}"
        return self._refused(case, result, sorted(after.keys() - before.keys()))

    def _accepted(self, case: Case, work: Path, result: Result) -> str:
        if "accepted" not in case.allowed:
            return "silent acceptance"
        if case.same and not re.search(r"damaged|warning|left out", result.err):
            key = (case.module, *case.arguments)
            if key not in self._expected:
                plain = self.folder / "plain"
                shutil.rmtree(plain, ignore_errors=True)
                self.stage.copy(plain)
                self._expected[key] = _content(self._call(case, plain, {}), plain)
            if _content(result, work) != self._expected[key]:
                return "another result"
        return "accepted"

    def _refused(self, case: Case, result: Result, new: list[str]) -> str:
        lines = result.err.splitlines()
        if "refused" not in case.allowed:
            return "refused"
        if case.surroundings in WITHOUT_STDERR and not lines:
            return "one line"
        errors = [line for line in lines if not _NOTES.match(line)]
        if len(errors) != 1 or not errors[0].startswith("error: ") or lines[-1] != errors[0]:
            return "several lines"
        if len(errors[0]) > MAX_LINE:
            return "a long line"
        return "one line"


def _types(folder: Path) -> dict[str, int]:
    """The type of every file below a folder, but for those of the home and temporary folders' libraries."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {path: stat.S_IFMT((folder / path).lstat().st_mode) for path in paths if not path.startswith(HOMES)}


def _content(result: Result, work: Path) -> str:
    """What a command printed and wrote, without what differs between equal runs."""
    submission = work / "submission.csv"
    return _SPEED.sub("", result.out.replace(str(work), "")) + (submission.read_text() if submission.is_file() else "")


def report(outcomes: dict[str, Counter[str]]) -> str:
    """The table of RESULTS.md."""
    found = {outcome for counts in outcomes.values() for outcome in counts}
    columns = [*GOOD, *sorted(found - set(GOOD))]
    rows = [["input", "cases", *columns]]
    total: Counter[str] = Counter()
    for kind, counts in outcomes.items():
        total += counts
        rows.append([kind, str(counts.total()), *(str(counts[column]) for column in columns)])
    rows.append(["all", str(total.total()), *(str(total[column]) for column in columns)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def select(cases: Iterator[Case], kinds: list[str], most: int, match: str) -> list[Case]:
    """Of each kind at most this many cases, spread evenly."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if (not kinds or case.kind in kinds) and re.search(match, str(case)):
            by_kind[case.kind].append(case)
    return [case for found in by_kind.values() for case in found[:: math.ceil(len(found) / most)]]


def run_all(campaigns: list[Campaign], cases: list[Case], tell: Callable[[str], None]) -> dict[str, Counter[str]]:
    """The outcomes by kind; failures are told as they happen. As many cases run at a time as there are campaigns."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    idle: queue.SimpleQueue[Campaign] = queue.SimpleQueue()
    for campaign in campaigns:
        idle.put(campaign)

    def run(case: Case) -> tuple[str, str]:
        campaign = idle.get()
        try:
            return campaign.run(case)
        finally:
            idle.put(campaign)

    with ThreadPoolExecutor(len(campaigns)) as pool:
        for number, (case, (outcome, last)) in enumerate(zip(cases, pool.map(run, cases), strict=True), start=1):
            outcomes[case.kind][outcome] += 1
            if outcome not in GOOD:
                tell(f"{outcome}: {str(case)[:400]!a}\n    {last[:600]!a}")
            if number % 200 == 0:
                tell(f"{number} of {len(cases)} cases")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="*", default=[])
    parser.add_argument("--most", type=int, default=100_000, help="cases of each kind")
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--match", default="")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    arguments = parser.parse_args()
    # Each case copies some hundred small files: in memory, where possible, that takes a sixth of the time.
    place = IN_MEMORY if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) else None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hw3p2-faults-", dir=place)))
        first = Campaign(folder / "0", stack.enter_context(ForkServer()))
        cases = select(first.cases(arguments.flips), arguments.kind, arguments.most, arguments.match)
        print(f"{len(cases)} cases", flush=True)
        servers = [stack.enter_context(ForkServer()) for _ in range(1, arguments.jobs)]
        others = [Campaign(folder / f"{i}", server, first.stage) for i, server in enumerate(servers, start=1)]
        outcomes = run_all([first, *others], cases, lambda line: print(line, flush=True))
    print(report(outcomes))
    return int(any(outcome not in GOOD for counts in outcomes.values() for outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
