"""A report that is open in a browser: what it shows, and what goes wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted_report as planted
import pytest
import small_report as small

PAGES: dict[str, Callable[[Path], Path]] = {
    "dev": planted.planted_page,
    "compared": lambda path: planted.planted_page(path, compare=[1, 2], speakers=None),
    "test": lambda path: planted.planted_page(path, labelled=False),
    "small": small.small_page,
    "bare": small.bare_page,
    "single": small.single_page,
}
"""The pages of these tests: `compared` has two systems side by side and no speakers, and `test` has no transcripts."""
PHONE = 390
"""Width of a screen that is touched."""


class Visit:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        size = {"width": width, "height": 800}
        self.page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=width == PHONE)
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def texts(self, selector: str) -> list[str]:
        """The text of each element, also of those in an SVG picture."""
        return list(self.page.locator(selector).all_text_contents())

    def column(self, section: str, label: str, heading: str) -> list[str]:
        """The cells of a column, from top to bottom."""
        table = self.page.locator(f"#{section} [aria-label='{label}'] table")
        headings = [text.rstrip(" ↕↑↓") for text in table.locator("thead th").all_inner_texts()]
        cells = table.locator(f"tbody tr > :nth-child({headings.index(heading) + 1})")
        return [text.strip() for text in cells.all_inner_texts()]

    def columns(self, selector: str) -> dict[str, list[str]]:
        """All cells of a table by heading, as the page's script reads them: faster than one column after the other."""
        rows = self.page.locator(selector).evaluate(
            "region => [...region.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return {heading: [row[k] for row in rows[1:]] for k, heading in enumerate(rows[0])}

    def sort(self, section: str, label: str, heading: str) -> None:
        table = self.page.locator(f"#{section} [aria-label='{label}'] table")
        table.locator("thead").get_by_role("button", name=heading, exact=False).first.click()

    def violations(self, selector: str = "html") -> list[str]:
        """What axe-core finds in a part of the page, contrast and reach by keyboard included."""
        axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
        response = axe_api.Axe().run(self.page, context=selector).response
        assert "color-contrast" in {rule["id"] for rule in response["passes"]}
        return [f"{rule['id']}: {rule['nodes'][0]['html'][:120]}" for rule in response["violations"]]

    def sideways(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
