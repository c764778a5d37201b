"""The charts of a report in a browser: lines, points, axes, zoom, and what they read out."""

from __future__ import annotations

import pytest
import small_report as small
from report_browser import PHONE

CHART = "figure:has(svg[aria-label='{}'])"
CURVES = CHART.format("Learning curves")


def read_point(visit, figure: str, series: int, index: int) -> str:
    """What a chart reads out at a point of a series."""
    circle = visit.page.locator(f"{figure} svg.chart circle.series-{series}").nth(index)
    circle.scroll_into_view_if_needed()
    box = circle.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return visit.text(f"{figure} output")


def ticks(visit, figure: str) -> list[str]:
    """Numbers or names along the x axis and then the y axis."""
    return visit.texts(f"{figure} svg.chart > text:not(.axis)")


def press(visit, figure: str, name: str, times: int = 1) -> None:
    visit.page.locator(figure).get_by_role("button", name=name).evaluate(
        "(button, times) => { for (let k = 0; k < times; k++) button.click(); }", times
    )


def test_learning_curves_zoom_and_come_back(visit):
    page = visit().page
    picture = page.locator("#curves svg.chart")
    picture.scroll_into_view_if_needed()
    labels = "#curves svg.chart > text:not(.axis)"
    before = page.locator(labels).all_text_contents()
    assert "0" in before
    assert picture.locator(".axis").all_text_contents() == ["epoch", "edits per utterance, held out"]
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 200)
    page.mouse.up()
    assert page.locator(labels).all_text_contents() != before
    page.locator("#curves").get_by_role("button", name="Reset").press("Enter")
    assert page.locator(labels).all_text_contents() == before
    page.locator("#curves .legend button").first.click()
    assert picture.locator("polyline").count() == 3
    page.locator("#curves .legend button").first.click()


class TestSmallReport:
    """Figures of the small report, counted by hand."""

    def test_where_errors_occur(self, visit):
        opened = visit("small")
        lengths, positions = (CHART.format(f"Errors by {what}") for what in ("length", "position"))
        assert ticks(opened, lengths) == ["0 (2)", "1 to 3 (2)", "4 to 5 (2)", "6 (2)", "0", "10", "20"]
        parts = [f"{10 * k}–{10 * k + 10} %" for k in range(10)]
        assert ticks(opened, positions) == [*parts, "0", "20", "40"]
        assert opened.texts(f"{lengths} .axis") == ["phonemes (utterances)", "errors per 100 phonemes"]
        assert read_point(opened, lengths, 1, 1) == "a: phonemes (utterances) 4 to 5 (2), 11.111"
        assert read_point(opened, lengths, 1, 2) == "a: phonemes (utterances) 6 (2), 25.000"
        assert opened.page.locator(f"{lengths} svg.chart circle").count() == 4 * 3  # no rate without phonemes
        assert opened.texts(f"{lengths} .legend button") == list(small.CHANGES)
        opened.page.locator(f"{lengths} .legend button").nth(1).click()
        assert opened.page.locator(f"{lengths} .legend [aria-pressed=false]").all_inner_texts() == ["a"]
        assert opened.page.locator(f"{lengths} svg.chart circle").count() == 3 * 3
        assert read_point(opened, lengths, 0, 2) == "x.csv: phonemes (utterances) 6 (2), 16.667"
        opened.page.locator(f"{lengths} .legend button").nth(1).click()
        assert opened.page.locator(f"{lengths} .legend [aria-pressed=true]").count() == 4
        where = "part of the utterance, from beginning to end 0–10 %"
        assert read_point(opened, positions, 1, 0) == f"a: {where}, 33.333"
        assert read_point(opened, positions, 0, 0) == f"x.csv: {where}, 16.667"
        assert opened.columns("#slices [aria-label='Errors by speaker']") == {
            "speaker": ["11", "22", "33"],
            "utterances": ["3", "3", "2"],
            "mean, errors per 100": ["18.18", "3.33", ""],
            "x.csv": ["27.27", "0.00", ""],
            "a": ["27.27", "13.33", ""],
            "b": ["18.18", "0.00", ""],
            small.PERFECT: ["0.00", "0.00", ""],
        }
        shades = opened.page.locator("#slices .shaded").evaluate_all("cells => cells.map(cell => cell.style.cssText)")
        assert shades[:2] == ["--shade: 37%;", "--shade: 55%;"] and len(shades) == 10

    def test_leaderboard_scores(self, visit):
        opened = visit("small")
        figure = CHART.format("Cross-validation against leaderboard")
        assert opened.columns("#scores [aria-label='Scored submissions']") == {
            "file": ["s1.csv", "s2.csv"],
            "nested": ["10.000", ""],
            "oof": ["9.500", "9.000"],
            "dev": ["", "9.250"],
            "public": ["10.400", "9.100"],
            "private": ["", "9.300"],
            "public − nested": ["+0.400", ""],
        }
        assert opened.page.locator(f"{figure} polyline").count() == 0
        assert opened.texts(f"{figure} .legend button") == ["nested out of fold", "dev", "out of fold, fitted"]
        read = "nested out of fold: s1.csv, nested out of fold 10.000, 10.400"
        assert read_point(opened, figure, 0, 0) == read
        assert read_point(opened, figure, 1, 0) == "dev: s2.csv, dev 9.250, 9.100"
        assert read_point(opened, figure, 2, 1) == "out of fold, fitted: s2.csv, out of fold, fitted 9.000, 9.100"
        diagonal = opened.page.locator(f"{figure} .diagonal").evaluate(
            "line => ['x1', 'y1', 'x2', 'y2'].map(name => Number(line.getAttribute(name)))"
        )
        width = int(opened.page.locator(f"{figure} svg.chart").get_attribute("width"))
        assert diagonal == pytest.approx([58, 320 - 46, width - 16, 12])

    def test_learning_curves(self, visit):
        opened = visit("small")
        lines = opened.page.locator(f"{CURVES} polyline").evaluate_all(
            "lines => lines.map(line => ['class', 'stroke-dasharray', 'points'].map(name => line.getAttribute(name)))"
        )
        assert [line[:2] for line in lines] == [
            ["line series-1", None], ["line series-1", "6 3"], ["line series-2", None],
        ]  # fmt: skip
        assert opened.page.locator(f"{CURVES} svg.chart circle").count() == 9
        assert ticks(opened, CURVES)[-5:] == ["0", "5", "10", "15", "20"]  # up to 24, of the second epoch
        assert {float(text) for text in ticks(opened, CURVES)[:-5]} >= {1.0, 2.0, 3.0}
        width = int(opened.page.locator(f"{CURVES} svg.chart").get_attribute("width"))
        last = [float(value) for value in lines[0][2].split()[-1].split(",")]
        expected = [58 + 2.03 / 2.06 * (width - 58 - 16), 274 - 10 / (24 * 1.04) * (274 - 12)]
        assert last == pytest.approx(expected, abs=0.06)

    def test_zoom(self, visit):
        opened = visit("small")
        page, whole = opened.page, ticks(opened, CURVES)
        press(opened, CURVES, "Zoom in")
        shown = ticks(opened, CURVES)
        assert (shown[0], shown[-5]) == ("1.5", "2.5")
        assert shown[-4:] == ["18", "20", "22", "24"]  # the distances after the second epoch
        press(opened, CURVES, "Zoom out")
        assert ticks(opened, CURVES) == whole
        press(opened, CURVES, "b fold 0")
        press(opened, CURVES, "Zoom in")
        assert ticks(opened, CURVES)[-5:] == ["18", "18.5", "19", "19.5", "20"]  # without those of a hidden line
        press(opened, CURVES, "b fold 0")
        press(opened, CURVES, "Reset")
        page.locator(f"{CURVES} svg.chart").scroll_into_view_if_needed()
        box = page.locator(f"{CURVES} svg.chart").bounding_box()

        def drag(start: tuple[int, int], *ends: tuple[int, int]) -> None:
            page.mouse.move(box["x"] + start[0], box["y"] + start[1])
            page.mouse.down()
            for x, y in ends:
                page.mouse.move(box["x"] + x, box["y"] + y)
            page.mouse.up()

        drag((200, 100), (300, 106), (206, 200))
        assert ticks(opened, CURVES) == whole  # too narrow
        drag((700, 250), (300, 200))
        assert page.locator(f"{CURVES} .selection").count() == 0
        points = page.locator(f"{CURVES} polyline").first.get_attribute("points").split()
        inner = box["width"] - 58 - 16
        left, right = (0.97 + (x - 58) / inner * 2.06 for x in (300, 700))
        low, high = ((274 - y) / 262 * 24.96 for y in (250, 200))
        expected = [58 + (3 - left) / (right - left) * inner, 274 - (10 - low) / (high - low) * 262]
        assert [float(value) for value in points[-1].split(",")] == pytest.approx(expected, abs=0.2)
        inside = [float(text) for text in ticks(opened, CURVES)]
        press(opened, CURVES, "Zoom in")  # no point is in view, so the y axis stays
        assert [float(text) for text in ticks(opened, CURVES)][-3:] == inside[-3:]
        press(opened, CURVES, "Zoom in", times=80)  # as by holding Enter
        assert page.locator(f"{CURVES} polyline").first.get_attribute("points").count("NaN") == 0
        assert len(set(ticks(opened, CURVES))) == len(ticks(opened, CURVES)) > 4
        page.locator(f"{CURVES} svg.chart").dblclick(position={"x": 300, "y": 100})
        assert ticks(opened, CURVES) == whole
        drag((700, 20), (30, 400))  # ends outside, at the corner where both axes begin
        assert ticks(opened, CURVES)[0] == "1" and ticks(opened, CURVES)[-5:] == ["0", "5", "10", "15", "20"]
        assert ticks(opened, CURVES) != whole
        press(opened, CURVES, "Reset")

    def test_a_drag_that_is_cancelled_or_not_by_the_main_button_selects_nothing(self, visit):
        page = visit("small").page
        picture = page.locator(f"{CURVES} svg.chart")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        for button, count in (("left", 1), ("right", 0)):
            page.mouse.move(box["x"] + 200, box["y"] + 60)
            page.mouse.down(button=button)
            page.mouse.move(box["x"] + 300, box["y"] + 160)
            assert page.locator(f"{CURVES} .selection").count() == count
            picture.dispatch_event("pointercancel")
            assert page.locator(f"{CURVES} .selection").count() == 0
            page.mouse.up(button=button)


def test_a_tap_reads_out_a_point_and_names_on_a_narrow_axis_keep_apart(visit):
    opened = visit("small", PHONE)
    positions = CHART.format("Errors by position")
    assert ticks(opened, positions)[:4] == ["0–10 %", "30–40 %", "60–70 %", "90–100 %"]
    circle = opened.page.locator(f"{positions} circle.series-0").first
    circle.scroll_into_view_if_needed()
    box = circle.bounding_box()
    opened.page.touchscreen.tap(box["x"] + 2, box["y"] + 2)
    assert opened.text(f"{positions} output").startswith("x.csv: part of the utterance")
    opened.page.locator("#errors svg.heat .cell").first.tap()
    assert opened.text("#errors figure output") == "IH taken for IY: 3 of 5 times (60.00 %)"
    assert opened.sideways() == 0  # for all the length of a name


def test_numbers_and_order(visit):
    """The page's own functions, on values at their limits."""
    page = visit("small").page
    assert page.evaluate("[ticks(0, 10, 5), ticks(0.97, 3.03, 4), ticks(-0.2, 0.2, 5), ticks(3, 3, 2)]") == [
        [0, 2, 4, 6, 8, 10], [1, 2, 3], [-0.2, -0.1, 0, 0.1, 0.2], [3],
    ]  # fmt: skip
    numbers = "[signed(0.0004), signed(-0.0004), signed(-0.0016), signed(2, 0), signed(NaN), signed(null), fixed(NaN)]"
    assert page.evaluate(numbers) == ["±0.000", "±0.000", "−0.002", "+2", "", "", ""]
    order = "[2, null, 10, '', 1, NaN].sort((a, b) => compareValues(a, b, {})).map(String)"
    assert page.evaluate(order.format(1)) == ["1", "2", "10", "null", "", "NaN"]
    assert page.evaluate(order.format(-1)) == ["10", "2", "1", "null", "", "NaN"]
    assert page.evaluate("['s10', 's9', 'S1'].sort((a, b) => compareValues(a, b, 1))") == ["S1", "s9", "s10"]
    styles = page.evaluate("[0, 9, 17].map(k => lineStyle(k)).map(style => [style.class, style['stroke-dasharray']])")
    assert styles == [["line series-0", None], ["line series-1", "6 3"], ["line series-1", "2 3"]]


def test_a_chart_without_points_has_axes(visit):
    drawn = visit("small").page.evaluate(
        "() => { const figure = chart({ label: 'none', xLabel: 'x', yLabel: 'y', xNames: ['only'],"
        " series: [{ name: 'a', points: [] }] }); document.body.append(figure); return new Promise(done =>"
        " requestAnimationFrame(() => setTimeout(() => { figure.remove(); done(figure.innerHTML); }))); }"
    )
    assert ">only<" in drawn and "NaN" not in drawn and "Infinity" not in drawn
