"""The HTML of the page: one file that contains its style, script and data, and makes no requests.

Its content security policy forbids all requests, and all scripts except its own, which is identified by its hash. All
text from data is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

import pandas as pd

SCRIPTS = ("elements.js", "data.js", "charts.js", "tables.js", "errors.js", "compare.js", "utterances.js", "main.js")
"""Joined in this order, they are one script."""
SECTIONS = {
    "headline": "Result",
    "leaderboard": "Members and blends",
    "curves": "Learning curves",
    "diversity": "Diversity",
    "errors": "Errors",
    "slices": "Where errors occur",
    "scores": "Cross-validation and leaderboard",
    "compare": "Side by side",
    "utterances": "Utterances",
    "notes": "Notes",
}
ABOUT_ERRORS = ("errors", "slices")


def section(name: str, title: str, body: str = "") -> str:
    """A section with a heading; the script fills it by its name."""
    return f"<section id={name} aria-labelledby={name}-title><h2 id={name}-title>{escape(title)}</h2>{body}</section>"


def note(text: str) -> str:
    """A paragraph of explanation."""
    return f"<p class=note>{escape(text)}</p>"


def table(frame: pd.DataFrame) -> str:
    """An HTML table in a region that scrolls; its text is escaped, floats have three digits, and NaN is empty."""
    head = "".join(f"<th scope=col>{escape(str(column))}</th>" for column in frame.columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in frame.itertuples(index=False))
    return (
        "<div class=scroll tabindex=0 role=group aria-label='Members and blends'>"
        f"<table class=sortable><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"<td class=number>{'' if value != value else f'{value:.3f}'}</td>"
    if isinstance(value, int):
        return f"<td class=number>{value:,}</td>"
    return f"<td>{escape(str(value))}</td>"


def html_page(title: str, subtitle: str, bodies: Mapping[str, str], data: Mapping[str, Any]) -> str:
    """The whole page: `bodies` is the HTML of sections by name, and the script fills the other sections from `data`.

    Without references there are no sections about errors. If two systems were chosen, their comparison comes early.
    """
    script = "\n".join(_asset(name) for name in SCRIPTS)
    order = [name for name in SECTIONS if data["labelled"] or name not in ABOUT_ERRORS]
    if data["compare"]:
        order.remove("compare")
        order.insert(order.index("leaderboard") + 1, "compare")
    links = "".join(f"<a href=#{name}>{escape(SECTIONS[name])}</a>" for name in order)
    body = "".join(section(name, SECTIONS[name], bodies.get(name, "")) for name in order)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{_policy(script)}">'
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'><link rel=icon href='data:,'>"
        f"<title>{escape(title)}: members and blends</title><style>{_asset('page.css')}</style></head>"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"
        f"<nav aria-label=Sections>{links}</nav><main>{body}</main>"
        "<footer class=note>Made by python -m ensemble.report of hw3p2-ensemble. The file works offline.</footer>"
        "<noscript><p class=note>Charts and the table of utterances need JavaScript.</p></noscript>"
        f"<script type=application/json id=data>{_json(data)}</script><script>{script}</script></body></html>\n"
    )


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element or begin a comment in it, whatever the data contain."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:"


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
