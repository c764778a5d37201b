"""What a failed call means for the user: one line that says what happened and what to do, with the page to visit.

Pure text: nothing is asked or retried here.
"""

from __future__ import annotations

from dataclasses import dataclass

from submit.client import Failure

SITE = "https://www.kaggle.com"
TOKENS = f"{SITE}/settings/api"


@dataclass(frozen=True)
class Credentials:
    """Where the client found whose credentials; never the credentials."""

    version: str
    """Of the `kaggle` package."""
    method: str | None = None
    """`ACCESS_TOKEN`, `LEGACY_API_KEY`, `OAUTH`; None when the client could not authenticate."""
    user: str | None = None
    token: str | None = None
    """Where a token lies, whether or not Kaggle takes it."""
    key: str | None = None
    """Where a user name with a key lies."""

    @property
    def source(self) -> str:
        # Where a token lies the client sends that token, even after it found the token stale and took up the key.
        if self.token:
            return f"the token in {self.token}"
        if self.key:
            return f"the key in {self.key}"
        return "~/.kaggle/credentials.json (kaggle auth login)"


def advise(failure: Failure, competition: str, credentials: Credentials | None = None) -> str:
    """The line for a failure of a call about `competition`."""
    page = f"{SITE}/competitions/{competition}" if competition else f"{SITE}/competitions"
    text = shorten(failure.text)
    if failure.kind == "http":
        return _of_status(failure.status or 0, text, page, competition, credentials)
    return {
        "connection": f"no connection to Kaggle ({text}): check the network, and HTTPS_PROXY if you use one",
        "garbled": "what answered was not Kaggle's interface (no JSON): a login page of your network, a proxy, or "
        "maintenance; open https://www.kaggle.com in a browser, then try again",
        "timeout": f"Kaggle gave {text}: try again later, or allow more with --timeout",
        "deadline": f"{text}: try again later, or allow more with --deadline",
        "upload": f"the file could not be uploaded ({text}), and nothing was submitted: try again later",
        "limit": f"no submissions left ({text}): the day's count starts anew at midnight UTC; see {page}/submissions",
        "unclear": f"it could not be told whether the submission arrived ({text}): run the same command again later, "
        f"it looks before it sends; or see {page}/submissions",
        "unscored": f"submitted, but no score yet ({text}): see {page}/submissions, or run "
        f"`python -m submit --ledger --competition {competition}` later",
        "credentials": f"no Kaggle credentials: make a token at {TOKENS} and save it as ~/.kaggle/access_token "
        "(or set KAGGLE_API_TOKEN), or run `kaggle auth login`",
        "import": f"the official client does not import ({text}): install it with `pip install kaggle six`",
        "damaged": f"the download was damaged ({text}): try again later",
        "archive": text,
    }.get(failure.kind, f"the Kaggle client failed: {text}")


def _of_status(status: int, text: str, page: str, competition: str, credentials: Credentials | None) -> str:
    said = f"({status}: {text})" if text else f"({status})"
    if status == 401:
        if credentials is None:
            return f"Kaggle refuses the credentials {said}: make a new token at {TOKENS}"
        masked = ""
        if credentials.token and credentials.key:
            masked = f"; it masks the key in {credentials.key}: remove the token and the key is used"
        return f"Kaggle refuses {credentials.source} {said}: it is stale or wrong, make a new one at {TOKENS}{masked}"
    if status == 403:
        return (
            f"Kaggle forbids it {said}: accept the rules at {page}/rules, and check the spelling of {competition!r}, "
            "for a name that does not exist is forbidden too"
        )
    if status == 404:
        return f"Kaggle knows no competition {competition!r} {said}, or it is closed: check the last part of {page}"
    if status == 429:
        return f"Kaggle asks for fewer requests {said}: wait some minutes and run the same command again"
    if status >= 500:
        return f"Kaggle has a fault of its own {said}: try again later"
    return f"Kaggle refuses the request {said}: see at {page}/submissions whether it still takes any, and as a file"


def shorten(text: str, length: int = 200) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"

