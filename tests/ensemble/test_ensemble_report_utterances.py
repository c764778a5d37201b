"""The table of utterances in a browser, its export, and the window with one utterance."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import planted_report as planted
import small_report as small
from report_browser import PHONE

from folds.competition.alphabets import F22

UTTERANCES = "#utterances [aria-label='Utterances']"


def test_utterances_sort_by_any_member(visit, comparison):
    visit().sort("utterances", "Utterances", "other")
    distances = list(map(int, visit().column("utterances", "Utterances", "other")))
    assert distances == sorted(comparison.distances[2].tolist(), reverse=True)[: len(distances)]


def test_utterances_are_filtered_and_exported(visit, comparison, tmp_path):
    page = visit().page
    speakers = visit().texts("#utterances label:has-text('Speaker') option")
    assert speakers == ["all", "<b>4", "666", "1001", "1002", "1003"]
    page.select_option("#utterances label:has-text('Speaker') select", planted.BAD_SPEAKER)
    page.select_option("#utterances label:has-text('Phoneme') select", str(planted.EXPECTED))
    page.select_option("#utterances label:has-text('With errors of') select", "1")
    expected = {
        comparison.split.ids[row]
        for row, speaker in enumerate(comparison.split.groups)
        if speaker == planted.BAD_SPEAKER
        and any(planted.EXPECTED in (edit.expected, edit.recognised) for edit in comparison.edits[1][row])
    }
    assert 0 < len(expected) < planted.UTTERANCES / 5
    assert set(visit().column("utterances", "Utterances", "utterance")) == expected
    assert f"{len(expected)} of {planted.UTTERANCES} utterances" in visit().text("#utterances output")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as CSV").click()
    download.value.save_as(tmp_path / "utterances.csv")
    with open(tmp_path / "utterances.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["utterance"] for row in rows} == expected
    for row in rows:
        number = comparison.split.ids.index(row["utterance"])
        spelled = " ".join(F22.phonemes[token] for token in comparison.systems[1].hypotheses[number])
        assert (int(row["good"]), row["hypothesis of good"]) == (comparison.distances[1][number], spelled)
    for label in ("Speaker", "Phoneme", "With errors of"):
        page.locator(f"#utterances label:has-text('{label}') select").select_option(index=0)


def test_an_id_is_no_formula_in_a_spreadsheet(visit):
    cells = visit().page.evaluate("[csvCell('=1+1'), csvCell('a,\"b'), csvCell(-2)]")
    assert cells == ["'=1+1", '"a,""b"', "-2"]


def test_an_utterance_opens_with_all_that_is_known(visit, comparison):
    page = visit().page
    hardest = int(comparison.hardest_first[0])
    visit().sort("utterances", "Utterances", "mean")
    page.locator("#utterances button.open").first.press("Enter")
    dialog = page.locator("dialog[open]")
    assert dialog.locator("h2").inner_text() == comparison.split.ids[hardest]
    rows = dialog.locator(".slots tr")
    assert rows.locator("th").all_inner_texts() == ["reference", *(system.name for system in comparison.systems)]
    for row, expected in enumerate([comparison.targets[hardest], *(s.hypotheses[hardest] for s in comparison.systems)]):
        texts = rows.nth(row).locator("td").all_inner_texts()
        assert [text for text in texts if text != "·"] == [F22.phonemes[token] for token in expected]
    wrong = [rows.nth(1 + k).locator("td.wrong").count() for k in range(len(comparison.systems))]
    assert wrong == comparison.distances[:, hardest].tolist()
    assert dialog.locator("canvas").count() == 1 + 4  # the features, and the posteriors of every member
    assert page.evaluate(
        "[...document.querySelectorAll('dialog canvas')].every(canvas => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0))"
    )
    dialog.locator("canvas").nth(1).hover()
    assert "output frame" in dialog.locator("output").inner_text()
    dialog.get_by_role("button", name="Next").click()
    assert dialog.locator("h2").inner_text() == comparison.split.ids[int(comparison.hardest_first[1])]
    assert visit().violations("dialog") == []
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_posteriors_in_the_browser_are_those_that_were_packed(visit):
    """The most probable phoneme of each spike, read back by the page's own code."""
    data = planted.planted_data(planted.planted_comparison())
    row, packed = next(iter(data["details"].items()))
    shapes = visit().page.evaluate(
        f"data.details[{row}].posteriors.map(p => {{ const rows = unpackPosteriors(p);"
        " return [rows.length, rows.every(r => Math.abs(sum([...r]) - 1) < 0.05)]; })"
    )
    assert shapes == [[part["frames"], True] for part in packed["posteriors"]]

@contextmanager
def window(visit, row: int) -> Iterator[Any]:
    """The window with an utterance of the small report, opened from the table and closed in the end."""
    visit.page.locator("#utterances").get_by_role("button", name=small.IDS[row]).click()
    try:
        yield visit.page.locator("dialog[open]")
    finally:
        visit.page.locator("dialog").evaluate("dialog => dialog.close()")


def choose(page, label: str, value: str | None = None) -> None:
    """Choose an option; without a value, the first, which filters nothing."""
    select = page.locator(f"#utterances label:has-text('{label}') select")
    select.select_option(**({"index": 0} if value is None else {"value": value}))


class TestSmallReport:
    """Figures of the small report, counted by hand."""

    def test_all_columns(self, visit):
        opened = visit("small")
        order = [5, 1, 0, 3, 4, 6, 2, 7]  # by the mean, and otherwise as in the data
        distances = [[0, 1, 0, 0, 0, 2, 0, 0], [0, 1, 0, 1, 1, 2, 1, 0], [1, 0, 0, 0, 0, 1, 0, 0], [0] * 8]
        columns = {
            "utterance": [small.IDS[row] for row in order],
            "mean": ["1.25", "0.50", "0.25", "0.25", "0.25", "0.25", "0.00", "0.00"],
            **{name: [str(of[row]) for row in order] for name, of in zip(small.CHANGES, distances, strict=True)},
            "phonemes": ["6", "3", "2", "5", "6", "0", "4", "0"],
            "speaker": ["11", "11", "11", "22", "22", "33", "22", "33"],
            "details": ["features", *[""] * 5, *["distances alone"] * 2],
        }
        assert opened.columns(UTTERANCES) == columns
        assert opened.page.locator("#utterances th[aria-sort=descending]").inner_text().startswith("mean")
        labels = opened.texts("#utterances .controls label")
        assert [label.split("  ")[0].split(" ")[0] for label in labels] == ["Search", "Speaker", "Phoneme", "With"]
        assert opened.texts("#utterances label:has-text('Speaker') option") == ["all", "11", "22", "33"]
        phonemes = opened.texts("#utterances label:has-text('Phoneme') option")
        assert phonemes[:2] == ["any", "[SIL]"] and phonemes[2:] == sorted(phonemes[2:])
        assert len(phonemes) == F22.classes
        note = opened.text("#utterances > .note")
        assert "The hardest 1 of 8 include features" in note and "the hardest 6 include hypotheses" in note

    def test_filters(self, visit):
        opened = visit("small")
        page = opened.page

        def shown() -> list[int]:
            rows = sorted(small.IDS.index(name) for name in opened.columns(UTTERANCES)["utterance"])
            assert opened.text("#utterances output") == f"{len(rows)} of 8 utterances"
            return rows

        choose(page, "With errors of", "1")
        assert shown() == [1, 3, 4, 5, 6]
        choose(page, "Phoneme", str(small.tokens("K")[0]))
        assert shown() == [3, 6]  # inserted; elsewhere it is right
        choose(page, "Phoneme", str(small.tokens("T")[0]))
        assert shown() == [4]
        choose(page, "With errors of")
        assert shown() == [3, 4, 5]  # not that whose hypotheses are left out
        choose(page, "Phoneme")
        choose(page, "Speaker", "33")
        assert shown() == [6, 7]
        page.fill("#utterances input[type=search]", "-0007")
        assert shown() == [7]
        choose(page, "Speaker")
        page.fill("#utterances input[type=search]", "")
        assert shown() == list(range(8))

    def test_export(self, visit, tmp_path):
        opened = visit("small")
        opened.page.fill("#utterances input[type=search]", "11-1")
        with opened.page.expect_download() as download:
            opened.page.get_by_role("button", name="Export as CSV").click()
        opened.page.fill("#utterances input[type=search]", "")
        assert download.value.suggested_filename == "utterances.csv"
        download.value.save_as(tmp_path / "utterances.csv")
        names = list(small.CHANGES)
        header = ["utterance", "mean", *names, "phonemes", "speaker", "reference"]
        header += [f"hypothesis of {name}" for name in names]
        wrong, right = "IY IY S T AA K", "IH IH S T AA K"
        expected = [
            ",".join(header),
            f"11-1-0005,1.25,2,2,1,0,6,11,{right},{wrong},{wrong},IY IH S T AA K,{right}",
            "11-1-0001,0.5,1,1,0,0,3,11,IY IH S,IY IY S,IY IY S,IY IH S,IY IH S",
            "11-1-0000,0.25,0,0,1,0,2,11,AA IY,AA IY,AA IY,AE IY,AA IY",
        ]
        assert (tmp_path / "utterances.csv").read_bytes().decode() == "".join(line + "\r\n" for line in expected)
        assert opened.page.evaluate("csvOf([], [7])").splitlines()[1] == ""  # no hypotheses
        assert "reference" not in visit("bare").page.evaluate("csvOf([], [1])").splitlines()[0]
        assert visit("bare").page.evaluate("csvOf([], [1])").splitlines()[1] == "IY IY S,IY IY S,IY IH S,IY IH S"

    def test_hypotheses_and_edits(self, visit):
        opened = visit("small")
        with window(opened, 5) as dialog:
            assert opened.text("dialog .note") == "Speaker 11: 6 phonemes in the reference."
            assert opened.columns("dialog [aria-label=Edits]") == {
                "system": list(small.CHANGES),
                "edits": ["2", "2", "1", "0"],
                "edit by edit": ["IY for IH at 1; IY for IH at 2"] * 2 + ["IY for IH at 1", ""],
            }
            assert opened.texts("dialog .slots tr:nth-child(4) td") == ["IY", "IH", "S", "T", "AA", "K"]
            kinds = dialog.locator(".slots td").evaluate_all("cells => cells.map(cell => cell.className)")
            expected = [["target"] * 2, ["wrong"] * 2, ["wrong"] * 2, ["wrong", "right"], ["right"] * 2]
            assert [kinds[6 * row : 6 * row + 2] for row in range(5)] == expected and kinds[2:6] == ["same"] * 4
        for row, edit in ((3, "K inserted before 6"), (4, "T deleted at 4")):
            with window(opened, row):
                assert opened.columns("dialog [aria-label=Edits]")["edit by edit"] == ["", edit, "", ""]

    def test_the_votes_of_the_members(self, visit):
        opened = visit("small")
        with window(opened, 5) as dialog:
            boxes = dialog.locator(".network .arc").evaluate_all(
                "boxes => boxes.map(box => [box.textContent, box.getAttribute('class'),"
                " Number(box.getAttribute('y')), Number(box.getAttribute('height'))])"
            )
            assert boxes[:4] == [
                ["IY: 100 %", "arc wrong", 0, 119],
                ["IY: 75 %", "arc wrong", 30, 89],
                ["IH: 25 %", "arc right", 0, 29],
                ["S: 100 %", "arc right", 0, 119],
            ]
            assert len(boxes) == 7
            texts = opened.texts("dialog .network > text")
            assert texts[:6] == ["IY", "IH", "IY", "IH", "IH", "S"]  # per slot, the votes and the reference below
            assert "votes, by their weights in x.csv:" in opened.texts("dialog .note")[2]
        for row, title, kind in ((3, "K: 75 %", "arc wrong"), (4, "nothing: 75 %", "arc none")):
            with window(opened, row) as dialog:
                assert dialog.locator(".network .arc", has_text=title).get_attribute("class") == kind
        with window(visit("bare"), 5):
            assert visit("bare").texts("dialog .network .arc")[:3] == ["IY: 67 %", "IH: 33 %", "IH: 67 %"]
            assert "weights" not in visit("bare").texts("dialog .note")[2]

    def test_features_and_posteriors(self, visit):
        opened = visit("small")
        with window(opened, 5) as dialog:
            assert opened.texts("dialog .lane h4")[:2] == ["features", "posteriors of a"]
            assert "4 frames from left to right" in opened.texts("dialog .note")[-1]
            alphas = dialog.locator("canvas").evaluate_all(
                "nodes => nodes.map(node => [...node.getContext('2d').getImageData(0, 0, node.width, node.height).data]"
                ".filter((_, k) => k % 4 === 3))"
            )
            assert alphas[0] == small.FEATURES.T[::-1].reshape(-1).tolist()  # the last dimension on top
            assert opened.texts("dialog .lane:nth-child(2) .names span") == ["blank", "IY", "IH"]
            expected = [[25, 255, 16], [0, 0, 178], [230, 0, 51]]  # without AA, less probable than 0.1
            assert np.abs(np.array(alphas[1]).reshape(3, 3) - expected).max() <= 1
            sizes = dialog.locator("canvas").evaluate_all("nodes => nodes.map(n => [n.clientWidth, n.clientHeight])")
            assert sizes[:2] == [[8, 15], [8, 36]]
            readings = [
                (0, 1, 1, "frame 0, feature 2"),
                (0, 7, 14, "frame 2, feature 0"),
                (1, 1, 5, "a, output frame 0: IH 0.90, blank 0.10, [SIL] 0.00"),
                (1, 7, 5, "a, output frame 2: IY 0.70, IH 0.20, blank 0.06"),
            ]
            for k, x, y, text in readings:
                dialog.locator("canvas").nth(k).hover(position={"x": x, "y": y})
                assert opened.text("dialog output") == text

    def test_a_tap_reads_out_posteriors(self, visit):
        opened = visit("small", PHONE)
        with window(opened, 5) as dialog:
            dialog.locator("canvas").nth(1).tap()
            assert opened.text("dialog output").startswith("a, output frame ")

    def test_utterances_without_hypotheses_or_features_say_so(self, visit):
        opened = visit("small")
        with window(opened, 7) as dialog:
            notes = opened.texts("dialog .note")
            assert notes[0] == "Speaker 33: 0 phonemes in the reference." and "distances but no hypotheses" in notes[1]
            assert notes[2] == "Only the hardest utterances include features and posteriors (--hardest)."
            assert opened.texts("dialog h3") == ["Edits"]
            assert list(opened.columns("dialog [aria-label=Edits]")) == ["system", "edits"]
            opened.page.mouse.click(640, 400)
            assert dialog.count() == 1
            opened.page.mouse.click(5, 5)  # beside the window
            assert dialog.count() == 0

    def test_steps_through_the_table_as_sorted_and_filtered(self, visit):
        page = visit("small").page
        choose(page, "Speaker", "22")
        titles, scrolled = [], []
        with window(visit("small"), 3) as dialog:
            for step in ("Previous", "Next", "Next", "Next", "Previous"):
                dialog.locator(".body").evaluate("body => body.scrollTo(0, 50)")
                dialog.get_by_role("button", name=step).click()
                titles.append(small.IDS.index(dialog.locator("h2").inner_text()))
                scrolled.append(dialog.locator(".body").evaluate("body => body.scrollTop"))
        assert titles == [3, 4, 2, 2, 4]
        assert scrolled[:2] == [50, 0]  # another utterance begins at its top
        assert page.evaluate("document.activeElement.textContent") == small.IDS[3]
        choose(page, "Speaker")
