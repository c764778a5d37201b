"""Fixtures of the tests of a report: its figures, and a browser that shows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import planted_report as planted
import pytest
from report_browser import PAGES, Visit

from ensemble.report_page.systems import Comparison


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """The systems with planted faults."""
    return planted.planted_comparison()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Visit]]:
    """Open a page of `PAGES` at a width and colour scheme; the same one again if it was opened before.

    In the end, no page had an error or requested anything but its own file.
    """
    folder = tmp_path_factory.mktemp("pages")
    known: dict[tuple[str, int, str], Visit] = {}

    def open_page(name: str = "dev", width: int = 1280, scheme: str = "light") -> Visit:
        key = (name, width, scheme)
        if key not in known:
            path = folder / f"{name}.html"
            known[key] = Visit(browser, path if path.exists() else PAGES[name](path), width, scheme)
        return known[key]

    yield open_page
    for visit in known.values():
        visit.page.close()
    assert [problem for visit in known.values() for problem in visit.problems] == []
    for visit in known.values():
        assert {address for address in visit.requests if not address.startswith(("data:", "blob:"))} == {visit.address}
