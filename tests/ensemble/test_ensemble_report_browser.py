"""The report in a real browser: everything a reader does with it, without an error, a request or a sideways scroll."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted_report as planted
import pytest

from folds.competition.alphabets import F22
from folds.competition.bootstrap import paired_bootstrap

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

SECTIONS = 10


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; skips where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def comparison():
    return planted.planted_comparison()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    """The page, the page of two systems side by side, and that of test."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "dev": planted.planted_page(folder / "dev.html"),
        "compared": planted.planted_page(folder / "compared.html", compare=[1, 2]),
        "test": planted.planted_page(folder / "test.html", labelled=False),
    }


class Visit:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.set_default_timeout(20_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def column(self, section: str, label: str, heading: str) -> list[str]:
        """The cells of a column, from top to bottom."""
        table = self.page.locator(f"#{section} [aria-label='{label}'] table")
        headings = [text.rstrip(" ↕↑↓") for text in table.locator("thead th").all_inner_texts()]
        cells = table.locator(f"tbody tr > :nth-child({headings.index(heading) + 1})")
        return [text.strip() for text in cells.all_inner_texts()]

    def sort(self, section: str, label: str, heading: str) -> None:
        table = self.page.locator(f"#{section} [aria-label='{label}'] table")
        table.locator("thead").get_by_role("button", name=heading, exact=False).first.click()

    def violations(self, selector: str = "html") -> list[str]:
        """What axe-core finds in a part of the page, contrast and reach by keyboard included."""
        response = axe_api.Axe().run(self.page, context=selector).response
        assert "color-contrast" in {rule["id"] for rule in response["passes"]}
        return [f"{rule['id']}: {rule['nodes'][0]['html'][:120]}" for rule in response["violations"]]

    def sideways(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture(scope="module")
def visits(browser, paths) -> Iterator[list[Visit]]:
    """All visits of this module: in the end, none had an error or requested anything but its own file."""
    opened: list[Visit] = []
    yield opened
    for visit in opened:
        visit.page.close()
    assert [problem for visit in opened for problem in visit.problems] == []
    for visit in opened:
        assert {address for address in visit.requests if not address.startswith(("data:", "blob:"))} == {visit.address}


@pytest.fixture(scope="module")
def visit(browser, paths, visits):
    """Open a page at a width and colour scheme; the same one again if it was opened before."""
    known: dict[tuple[str, int, str], Visit] = {}

    def open_page(name: str = "dev", width: int = 1280, scheme: str = "light") -> Visit:
        key = (name, width, scheme)
        if key not in known:
            known[key] = Visit(browser, paths[name], width, scheme)
            visits.append(known[key])
        return known[key]

    return open_page


def test_all_sections_are_filled(visit):
    page = visit().page
    assert page.get_attribute("html", "data-ready") == "true"
    texts = page.locator("main > section").all_inner_texts()
    assert len(texts) == SECTIONS
    assert all(len(text.splitlines()) > 2 for text in texts[1:-1])  # the first and the last are the test's own
    assert page.locator("nav a").all_inner_texts() == page.locator("main > section > h2").all_inner_texts()


def test_markup_in_the_data_is_text(visit):
    page = visit().page
    assert page.title() == "planted <i>: members and blends"
    assert page.locator("main b, main i, main script").count() == 0
    page.fill("#utterances input[type=search]", "</script>")
    assert visit().column("utterances", "Utterances", "utterance") == [planted.HOSTILE]
    page.fill("#utterances input[type=search]", "")


def test_the_leaderboard_sorts(visit, comparison):
    names = [system.name for system in comparison.systems]
    by_distance = [names[k] for k in comparison.distances.mean(axis=1).argsort(kind="stable")]
    for expected in (by_distance, by_distance[::-1]):
        visit().sort("leaderboard", "Members and blends", "dev, with LM")
        assert visit().column("leaderboard", "Members and blends", "system") == expected
    heading = visit().page.locator("#leaderboard th[aria-sort]")
    assert heading.get_attribute("aria-sort") == "descending"


def test_utterances_sort_by_any_member(visit, comparison):
    visit().sort("utterances", "Utterances", "other")
    distances = list(map(int, visit().column("utterances", "Utterances", "other")))
    assert distances == sorted(comparison.distances[2].tolist(), reverse=True)[: len(distances)]


def test_utterances_are_filtered_and_exported(visit, comparison, tmp_path):
    page = visit().page
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


def test_two_systems_side_by_side(visit, comparison):
    page = visit("compared").page
    assert page.locator("main > section h2").all_inner_texts().index("Side by side") == 2
    interval = paired_bootstrap(comparison.distances[1], comparison.distances[2], comparison.groups)

    def signed(value: float) -> str:
        return f"{'+' if value > 0 else '−'}{abs(value):.3f}"

    expected = f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}] edits per utterance"
    assert expected in visit("compared").text("#compare .verdict")
    page.get_by_role("button", name="Swap").click()
    assert f"{signed(-interval.mean)} [{signed(-interval.high)}" in visit("compared").text("#compare .verdict")
    change = comparison.distances[2] - comparison.distances[1]
    changed = page.locator("#compare [aria-label='Utterances that changed'] tbody tr")
    assert changed.count() == min(20, (change != 0).sum())
    largest = max(abs(change))
    first = visit("compared").column("compare", "Utterances that changed", "A − B")[0]
    assert abs(int(first.replace("−", "-"))) == largest


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
    assert output.inner_text().startswith(f"IH taken for IY: {count} times of ")


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


def test_without_references(visit):
    page = visit("test").page
    assert page.locator("#errors, #slices").count() == 0
    disagreement = list(map(float, visit("test").column("utterances", "Utterances", "disagreement")))
    assert disagreement == sorted(disagreement, reverse=True)
    page.locator("#utterances button.open").first.click()
    assert page.locator("dialog[open] .slots th").first.inner_text() == "submission.csv"
    page.get_by_role("button", name="Close").click()
    assert "Without transcripts, it is not known which is better" in visit("test").text("#compare")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_scrolls_sideways_and_all_can_read_it(visit, width, scheme):
    assert visit("dev", width, scheme).sideways() == 0
    assert visit("dev", width, scheme).violations() == []


def test_a_phone_shows_an_utterance(visit):
    page = visit("dev", 390, "light").page
    page.locator("#utterances button.open").first.click()
    assert page.locator("dialog[open] .body").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    assert visit("dev", 390, "light").sideways() == 0
    page.get_by_role("button", name="Close").click()
