"""Explain a failed call to the user in one line: what happened, what to do, and which page to visit.

This module only formats text: it makes no calls and does not retry.
"""

from __future__ import annotations

from dataclasses import dataclass

from submit.client import Failure

SITE = "https://www.kaggle.com"
TOKENS = f"{SITE}/settings/api"


@dataclass(frozen=True)
class Credentials:
    """Where the client found credentials, and of which kind; never the credentials themselves."""

    version: str
    """Version of the `kaggle` package."""
    method: str | None = None
    """`ACCESS_TOKEN`, `LEGACY_API_KEY` or `OAUTH`; None if the client could not authenticate."""
    user: str | None = None
    token: str | None = None
    """Where a token was found, valid or not."""
    key: str | None = None
    """Where a user name with a key was found."""

    @property
    def source(self) -> str:
        """Where the credentials that the client sends come from."""
        # If there is a token, the client sends it, even if it is expired and the client has loaded the key as well.
        if self.token:
            return f"the token in {self.token}"
        if self.key:
            return f"the key in {self.key}"
        return "~/.kaggle/credentials.json (kaggle auth login)"


def advise(failure: Failure, competition: str, credentials: Credentials | None = None) -> str:
    """Explain a failed call about `competition` in one line."""
    page = f"{SITE}/competitions/{competition}" if competition else f"{SITE}/competitions"
    text = shorten(failure.text)
    if failure.kind == "http":
        return _advise_on_status(failure.status or 0, text, page, competition, credentials)
    return {
        "connection": f"no connection to Kaggle ({text}): check the network, and HTTPS_PROXY if you use a proxy",
        "garbled": f"the answer was not from Kaggle's API ({text}): it may come from a login page of your network or "
        "a proxy, or Kaggle is under maintenance; open https://www.kaggle.com in a browser, then try again",
        "timeout": f"Kaggle did not answer in time ({text}): try again later, or raise --timeout",
        "deadline": f"{text}: try again later, or raise --deadline",
        "upload": f"the file could not be uploaded ({text}), and nothing was submitted: try again later",
        "limit": f"no submissions left ({text}): the daily count is reset at midnight UTC; see {page}/submissions",
        "unclear": f"it is not known whether the submission arrived ({text}): run the same command again later, "
        f"which checks before it sends, or see {page}/submissions",
        "unrecorded": f"submitted, but not yet recorded in the ledger ({text}): once that is mended, run the same "
        "command again, which records the submission and sends nothing",
        "unscored": f"submitted, but no score yet ({text}): see {page}/submissions, or run "
        f"`python -m submit --ledger --competition {competition}` later",
        "credentials": f"no Kaggle credentials: create a token at {TOKENS} and save it as ~/.kaggle/access_token "
        "(or set KAGGLE_API_TOKEN), or run `kaggle auth login`",
        "import": f"the official client cannot be imported ({text}): install it with `pip install kaggle six`",
        "damaged": f"the download was damaged ({text}): try again later",
        "archive": text,
    }.get(failure.kind, f"the Kaggle client failed: {text}")


def _advise_on_status(status: int, text: str, page: str, competition: str, credentials: Credentials | None) -> str:
    answer = f"({status}: {text})" if text else f"({status})"
    if status == 401:
        if credentials is None:
            return f"Kaggle rejects the credentials {answer}: create a new token at {TOKENS}"
        precedence = ""
        if credentials.token and credentials.key:
            precedence = f"; it takes precedence over the key in {credentials.key}: remove the token to use the key"
        return (
            f"Kaggle rejects {credentials.source} {answer}: it is expired or invalid; create a new one at "
            f"{TOKENS}{precedence}"
        )
    if status == 403:
        return (
            f"Kaggle denies access {answer}: accept the rules at {page}/rules, and check the spelling of "
            f"{competition!r}, because access to a name that does not exist is denied too"
        )
    if status == 404:
        return f"Kaggle has no competition {competition!r} {answer}, or it is closed: check the spelling in {page}"
    if status == 429:
        return f"Kaggle limits the rate of requests {answer}: wait a few minutes and run the same command again"
    if status >= 500:
        return f"Kaggle has a server error {answer}: try again later"
    return f"Kaggle rejects the request {answer}: check at {page}/submissions whether submissions are still open"


def shorten(text: str, length: int = 200) -> str:
    """Shorten a text to one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
