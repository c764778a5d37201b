"""Diversity, confusions and tables of a report in a browser: their figures, and what their cells read out."""

from __future__ import annotations

import planted_report as planted
import small_report as small

from folds.competition.alphabets import F22


def test_planted_faults_show_where_they_should(visit, comparison):
    assert visit().column("slices", "Errors by speaker", "speaker")[0] == planted.BAD_SPEAKER
    assert visit().column("errors", "Most frequent confusions", "reference")[0] == "IH"
    assert visit().column("errors", "Most frequent confusions", "recognised")[0] == "IY"
    assert visit().column("errors", "Errors by phoneme", "phoneme")[0] == "IH"
    members = visit().column("diversity", "Redundant members", "member")
    verdicts = dict(zip(members, visit().column("diversity", "Redundant members", "redundant?"), strict=True))
    assert "near copy of good" in verdicts["copy"] and "without weight" in verdicts["useless"]
    assert verdicts["good"] == verdicts["other"] == ""


def test_the_confusion_matrix_reads_out_by_pointer_and_by_keys(visit, comparison):
    page = visit().page
    picture = page.locator("#errors svg.heat")
    picture.scroll_into_view_if_needed()
    picture.hover(position={"x": 200, "y": 200})
    output = page.locator("#errors figure output")
    texts = {output.inner_text()}
    picture.focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        texts.add(output.inner_text())
    assert len(texts) == 3 and "" not in texts
    pair = (planted.EXPECTED, planted.RECOGNISED)
    count = sum((edit.expected, edit.recognised) == pair for edits in comparison.edits[0] for edit in edits)
    labels = picture.locator("text:not(.axis)").all_text_contents()
    labels = labels[: len(labels) // 2]  # of the columns, then of the rows
    assert sorted(labels) == [*sorted(F22.phonemes[token] for token in set().union(*comparison.targets)), "∅"]
    assert labels.index("IY") + 1 == labels.index("IH")  # similar phonemes side by side
    row, column = (labels.index(F22.phonemes[token]) for token in pair)
    for key in ["ArrowUp"] * 60 + ["ArrowLeft"] * 60 + ["ArrowDown"] * row + ["ArrowRight"] * column:
        page.keyboard.press(key)
    assert output.inner_text().startswith(f"IH taken for IY: {count} of ")


class TestSmallReport:
    """Figures of the small report, counted by hand."""

    def test_diversity(self, visit):
        opened = visit("small")
        grids = "#diversity figure >> nth={}"
        distances, correlations = (
            opened.texts(f"{grids.format(k)} >> svg text[text-anchor=middle]") for k in range(2)
        )
        assert distances == ["0.4", "0.4", "0.4", "0.4", "0.8", "0.8", "0.4", "0.8", "0.3", "0.4", "0.8", "0.3"]
        assert correlations == [".85", ".35", ".85", ".28", ".35", ".28"]  # none with a system that is always right
        shades = opened.page.locator(f"{grids.format(0)} >> svg .cell").evaluate_all(
            "cells => cells.map(cell => Number(cell.getAttribute('fill-opacity')))"
        )
        assert shades == [0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.25, 0.5, 0.167, 0.25, 0.5, 0.167]
        read = {}
        for k in range(2):
            opened.page.locator(f"{grids.format(k)} >> svg.heat").focus()
            texts = []
            for key in ("ArrowRight", "ArrowUp", "ArrowDown", *["ArrowRight"] * 3, *["ArrowDown"] * 3):
                opened.page.keyboard.press(key)
                texts.append(opened.text(f"{grids.format(k)} >> output"))
            read[k] = texts
        stays = "x.csv and a: 0.375 edits apart"
        last = f"a and {small.PERFECT}"
        assert read[0][:6] == [stays, stays, "a", "a and b: 0.750 edits apart", *[f"{last}: 0.750 edits apart"] * 2]
        assert read[0][6:] == [f"b and {small.PERFECT}: 0.250 edits apart", small.PERFECT, small.PERFECT]
        assert read[1][2:4] == ["a", "a and b: errors correlate by 0.277"]
        assert read[1][5] == f"{last}: no correlation, since one gets all phonemes right, or none"
        assert opened.columns("#diversity [aria-label='Redundant members']") == {
            "member": ["a", "b", small.PERFECT],
            "weight": ["3.000", "1.000", "0.000"],
            "distance": ["0.750", "0.250", "0.000"],
            "nearest member": ["b", small.PERFECT, "b"],
            "apart": ["0.750", "0.250", "0.250"],
            "error correlation with it": ["0.277", "", ""],
            "alone right": ["0", "0", "1"],
            "redundant?": ["never alone right", "never alone right", "without weight"],
        }
        note = opened.texts("#diversity > .note")[-1]
        assert "(of 26 in all)" in note and note.endswith("Weights are those in x.csv.")

    def test_errors_by_kind(self, visit):
        assert visit("small").columns("#errors [aria-label='Substitutions, insertions and deletions']") == {
            "system": list(small.CHANGES),
            "substitutions per utterance": ["0.375", "0.375", "0.250", "0.000"],
            "insertions per utterance": ["0.000", "0.250", "0.000", "0.000"],
            "deletions per utterance": ["0.000", "0.125", "0.000", "0.000"],
            "edits in all": ["3", "6", "2", "0"],
            "errors per 100 phonemes": ["11.54", "23.08", "7.69", "0.00"],
        }
        assert visit("small").page.locator("#errors [aria-label^=Substitutions] td.number").count() == 4 * 5

    def test_confusions(self, visit):
        opened = visit("small")
        opened.page.select_option("#errors select", "1")
        assert "up to 3 times" in opened.texts("#errors .note")[1]
        assert opened.columns("#errors [aria-label='Most frequent confusions']") == {
            "reference": ["IH", "∅", "T"],
            "recognised": ["IY", "K", "∅"],
            "times": ["3", "2", "1"],
            "% of the phoneme": ["60.0", "", "25.0"],
        }
        assert opened.columns("#errors [aria-label='Errors by phoneme']") == {
            "phoneme": ["IH", "T", "IY", "AA", "K", "S"],
            "count": ["5", "4", "5", "5", "2", "5"],
            "error %": ["60.0", "25.0", "0.0", "0.0", "0.0", "0.0"],
            "substituted": ["3", "0", "0", "0", "0", "0"],
            "deleted": ["0", "1", "0", "0", "0", "0"],
            "inserted": ["0", "0", "0", "0", "2", "0"],
        }
        shades = opened.page.locator("#errors .shaded").evaluate_all("cells => cells.map(cell => cell.style.cssText)")
        assert shades[:3] == ["--shade: 55%;", "--shade: 23%;", "--shade: 0%;"]
        picture = opened.page.locator("#errors svg.heat")
        assert opened.texts("#errors svg.heat text:not(.axis)") == ["∅", "IY", "IH", "AA", "T", "K", "S"] * 2
        assert opened.texts("#errors svg.heat text.axis") == ["recognised", "reference"]
        cells = picture.locator(".cell")
        shades = cells.evaluate_all("cells => cells.map(cell => cell.getAttribute('fill-opacity'))")
        assert shades == ["0.816", "1.000", "0.577"]  # square roots of 2, 3 and 1 of 3
        read = {}
        for k in range(3):
            cells.nth(k).hover()
            read[k] = opened.text("#errors figure output")
        assert list(read.values()) == [
            "K inserted: 2 times",
            "IH taken for IY: 3 of 5 times (60.00 %)",
            "T deleted: 1 of 4 times (25.00 %)",
        ]
        place = "node => ['x', 'y', 'width'].map(name => node.getAttribute(name))"
        assert picture.locator(".cursor").evaluate(place) == cells.nth(2).evaluate(place)
        picture.focus()
        for key in ["ArrowUp"] * 2 + ["ArrowRight"] * 2:
            opened.page.keyboard.press(key)
        assert opened.text("#errors figure output") == "IH: right 2 of 5 times"
        key = "new KeyboardEvent('keydown', { key: 'ArrowDown', cancelable: true })"
        assert not picture.evaluate(f"picture => picture.dispatchEvent({key})")  # the page does not scroll
        opened.page.select_option("#errors select", "2")
        picture.focus()
        read = []
        for _ in range(4):  # down the diagonal
            opened.page.keyboard.press("ArrowRight")
            opened.page.keyboard.press("ArrowDown")
            read.append(opened.text("#errors figure output"))
        assert read[2:] == ["AE does not occur in the reference", "AA: right 4 of 5 times"]
        opened.page.keyboard.press("ArrowLeft")
        assert opened.text("#errors figure output") == "AA taken for AE: 1 of 5 times (20.00 %)"
        assert opened.texts("#errors .note")[1].count("up to 1 time.") == 1


def test_long_tables_show_more_rows_and_sort_both_ways(visit, comparison):
    opened = visit()
    region = "#utterances [aria-label='Utterances']"
    more = opened.page.locator("#utterances div > button", has_text="Show")
    assert len(opened.texts(f"{region} tbody tr")) == 20 and more.inner_text() == "Show 40 more of 60"
    more.click()
    assert len(opened.texts(f"{region} tbody tr")) == 60 and more.is_hidden()
    opened.page.fill("#utterances input[type=search]", "-1-")
    assert len(opened.texts(f"{region} tbody tr")) == 20 and more.inner_text() == "Show 38 more of 58"
    opened.page.fill("#utterances input[type=search]", "")
    more.click()
    distances = sorted(comparison.distances[1].tolist())
    heading = opened.page.locator(f"{region} th", has_text="good")
    for expected, direction in ((distances[::-1], "descending"), (distances, "ascending")):
        opened.sort("utterances", "Utterances", "good")
        assert [int(text) for text in opened.columns(region)["good"]] == expected[:20]
        assert heading.get_attribute("aria-sort") == direction
    assert opened.page.locator(f"{region} th[aria-sort]").count() == 1
