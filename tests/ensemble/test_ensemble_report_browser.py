"""The report in a real browser: all sections, systems side by side, no error, no request and no sideways scroll."""

from __future__ import annotations

import planted_report as planted
import pytest
import small_report as small

from folds.competition.bootstrap import paired_bootstrap

SECTIONS = 10


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
    page.fill("#utterances input[type=search]", "</SCRIPT>")
    assert visit().column("utterances", "Utterances", "utterance") == [planted.HOSTILE]
    page.fill("#utterances input[type=search]", "")


def test_the_leaderboard_sorts(visit, comparison):
    names = [system.name for system in comparison.systems]
    by_distance = [names[k] for k in comparison.distances.mean(axis=1).argsort(kind="stable")]
    for expected in (by_distance, by_distance[::-1]):
        visit().sort("leaderboard", "Members and blends", "dev, with LM")
        assert visit().column("leaderboard", "Members and blends", "system") == expected
    visit().sort("leaderboard", "Members and blends", "parameters")
    parameters = visit().column("leaderboard", "Members and blends", "parameters")
    assert parameters == ["900", "1,000", "2,000", "3,000", "12,000"]
    visit().sort("leaderboard", "Members and blends", "parameters")
    heading = visit().page.locator("#leaderboard th[aria-sort]")
    assert heading.get_attribute("aria-sort") == "descending"


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
    assert visit("compared").texts("#compare h3")[:3] == ["By phoneme", "By confusion", "By length"]  # no speakers


def test_the_edits_of_one_system_alone_are_listed_up_to_five(visit, comparison):
    page, (good, useless) = visit().page, (1, 4)
    page.select_option("#compare select >> nth=0", str(useless))
    page.select_option("#compare select >> nth=1", str(good))
    columns = visit().columns("#compare [aria-label='Utterances that changed']")
    of_speakers = visit().columns("#compare [aria-label='What changed by speaker']")["A − B"]
    sizes = [abs(float(text.replace("−", "-"))) for text in of_speakers]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]

    def described(system: int, row: int) -> list[str]:
        return list(page.evaluate(f"editsOf({row}, {system}).map(describeEdit)"))

    for utterance, text in list(zip(columns["utterance"], columns["edits of A alone"], strict=True))[:3]:
        row = comparison.split.ids.index(utterance)
        alone = [edit for edit in described(useless, row) if edit not in described(good, row)]
        assert len(alone) > 5 and text == "; ".join(alone[:5]) + f"; and {len(alone) - 5} more"


class TestSmallReport:
    """Figures of the small report, counted by hand."""

    def test_two_systems_side_by_side(self, visit):
        opened = visit("small")
        assert opened.text("#compare .note").startswith(
            "A has fewer edits in 3 utterances (3 edits), more in 0 (0), and equally many in 5. Their hypotheses are "
            "0.375 edits apart on average. The interval is over 3 speakers."
        )
        assert opened.text("#compare .verdict").startswith(
            "A is x.csv, with 0.375 edits per utterance. B is a, with 0.750 edits per utterance. A − B: −0.375 ["
        )
        opened.page.select_option("#compare select >> nth=1", "2")
        assert "fewer edits in 1 utterance (1 edit), more in 2 (2), and equally" in opened.text("#compare .note")
        assert opened.text("#compare .verdict").endswith("; not significantly different at 95 %.")
        assert opened.columns("#compare [aria-label='What changed by phoneme']") == {
            "phoneme": ["IH", "AA"],
            "errors of A": ["3", "0"],
            "errors of B": ["1", "1"],
            "A − B": ["+2", "−1"],
        }
        assert opened.columns("#compare [aria-label='What changed by confusion']") == {
            "reference → recognised": ["IH → IY", "AA → AE"],
            "A": ["3", "0"],
            "B": ["1", "1"],
            "A − B": ["+2", "−1"],
        }
        assert opened.columns("#compare [aria-label='What changed by speaker']") == {
            "speaker": ["11", "22", "33"],
            "utterances": ["3", "3", "2"],
            "A, errors per 100": ["27.27", "0.00", ""],
            "B": ["18.18", "0.00", ""],
            "A − B": ["+9.09", "±0", ""],
        }
        assert opened.columns("#compare [aria-label='What changed by phonemes']") == {
            "phonemes": ["0", "1 to 3", "4 to 5", "6"],
            "utterances": ["2"] * 4,
            "A, errors per 100": ["", "20.00", "0.00", "16.67"],
            "B": ["", "20.00", "0.00", "8.33"],
            "A − B": ["", "±0", "±0", "+8.33"],
        }
        assert opened.columns("#compare [aria-label='Utterances that changed']") == {
            "utterance": [small.IDS[row] for row in (0, 1, 5)],
            "A": ["0", "1", "2"],
            "B": ["1", "0", "1"],
            "A − B": ["−1", "+1", "+1"],
            "edits of A alone": ["", "IY for IH at 2", "IY for IH at 2"],
            "edits of B alone": ["AE for AA at 1", "", ""],
        }
        opened.page.locator("#compare").get_by_role("button", name=small.IDS[1]).click()
        titles = []
        for step in ("Next", "Next", "Previous"):
            opened.page.locator("dialog").get_by_role("button", name=step).click()
            titles.append(opened.text("dialog h2"))
        opened.page.keyboard.press("Escape")
        assert titles == [small.IDS[5], small.IDS[5], small.IDS[1]]
        opened.page.select_option("#compare select >> nth=1", "0")
        assert opened.texts("#compare > div:last-child") == ["Choose two different systems."]

    def test_significance(self, visit):
        verdicts = visit("small").page.evaluate(
            "[[-2, -3, -1], [2, 1, 3], [2, 0, 4]].map(interval => {"
            " data.differences[0][1] = interval; return compareVerdict(0, 1).split('; ')[1]; })"
        )
        assert verdicts == [
            "A is significantly better than B at 95 %.",
            "A is significantly worse than B at 95 %.",
            "not significantly different at 95 %.",
        ]

    def test_without_transcripts_speakers_and_all_else_that_may_lack(self, visit):
        opened = visit("bare")
        assert opened.text("#curves p") == "The runs have no metrics."
        assert "no scored submission yet" in opened.text("#scores p")
        assert opened.text("#compare p").startswith("x.csv and a are 0.375 edits apart on average.")
        assert opened.page.locator("#diversity figure").count() == 1
        labels = opened.page.locator("#utterances .controls label > span").all_inner_texts()
        assert [label.strip() for label in labels] == ["Search", "Phoneme", "With differences of"]
        columns = opened.columns("#utterances [aria-label='Utterances']")
        assert list(columns) == ["utterance", "disagreement", *small.CHANGES, "phonemes", "details"]
        assert columns["disagreement"] == ["1.33", *["0.67"] * 5, "0.00", "0.00"]
        assert columns["utterance"][0] == small.IDS[5]
        opened.page.get_by_role("button", name=small.IDS[1]).click()
        assert opened.text("dialog .note") == "3 phonemes in the hypothesis of x.csv."
        assert opened.texts("dialog .slots th") == list(small.CHANGES)
        assert "as in x.csv different · nothing" in opened.texts("dialog .note")[1]
        opened.page.keyboard.press("Escape")

    def test_one_system_alone(self, visit):
        opened = visit("single")
        assert opened.text("#diversity p") == "With only one system, there is nothing to compare."
        assert opened.text("#compare p") == "There is only one system, so there is nothing to compare it with."
        assert opened.text("#slices > p") == "The data name no speakers."
        assert opened.columns("#utterances [aria-label='Utterances']")["mean"][0] == "2.00"


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
