"""Tables and progress: what a file gets, and that bars are shown on terminals only."""

from __future__ import annotations

import time

from registry.console import ProgressBar, print_table, track


def test_a_table_in_a_file_has_aligned_columns_and_is_never_wrapped(capsys):
    rows = [("gru", 1234, 0.5, "-", "x" * 300), ("pblstm_small", 7, 12.25, 3, "[y]")]
    print_table(["name", "frames", "distance", "rank", "text"], rows)
    assert capsys.readouterr().out == (
        "name          frames  distance  rank  text\n"
        f"gru            1,234     0.500     -  {'x' * 300}\n"
        "pblstm_small       7    12.250     3  [y]\n"
    )


def test_a_table_without_rows_has_a_header(capsys):
    print_table(["name", "frames"], [], title="Members")
    assert capsys.readouterr().out == "Members\nname  frames\n"


def test_truth_values_are_not_numbers(capsys):
    print_table(["a"], [(True,), (False,)])
    assert capsys.readouterr().out == "a\nTrue\nFalse\n"


def test_short_progress_is_quiet_where_stderr_is_not_a_terminal(capsys):
    with ProgressBar("decode", total=3) as bar:
        bar.advance(2, status="distance 9.8")
        bar.move_to(3, status="done")
    assert list(track([1, 2, 3], "count")) == [1, 2, 3]
    assert list(track((number for number in (1, 2)), "count")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_long_progress_has_a_line_per_minute_where_stderr_is_not_a_terminal(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for item in track([25, 40, 10, 130, 65], "scoring, dev"):
        now += item
    for _ in track(iter([70, 1]), "joining"):
        now += 70
    assert capsys.readouterr().err.splitlines() == [
        "scoring, dev: 2 of 5 in 1:05, about 1:38 left",
        "scoring, dev: 4 of 5 in 3:25, about 0:51 left",
        "joining: 1 in 1:10",
        "joining: 2 in 2:20",
    ]
