"""The child process that runs the official `kaggle` client: one JSON request per line in, one JSON answer per line out.

It only makes the client's calls: it does not retry or write to the ledger. `submit.client` runs it as a script, and it
imports nothing from this project, so that it can be started from any folder. Texts in an answer may quote credentials:
`submit.client` redacts every answer as soon as it is read.

A request is `{"call": name, "arguments": {…}, "time_limit": seconds}`, an answer `{"value": …}` or `{"failure": {…}}`.
Answers go through a private copy of standard output; what the client prints goes to standard error, which is discarded.
A call that exceeds its time limit ends the process, and the exit status says how far a submission got.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from types import FrameType, ModuleType
from typing import IO, Any

TIMEOUT_STATUS = {"before": 91, "upload": 92, "create": 93}
"""Exit status after a call that exceeded its time limit, by the phase of the submission (see `find_phase`)."""

_MAX_TEXT = 10_000
"""Maximum length of a text in an answer."""

_PHASES = (("create_submission", "create"), ("upload_complete", "upload"))


def find_phase(functions: list[str]) -> str:
    """Find out how far a submission got, from the names of the client's functions on the stack.

    `create`: the request that creates the submission may have been sent. `upload`, `before`: it has not been sent.
    """
    return next((name for function, name in _PHASES if function in functions), "before")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Requests come through a private copy of standard input: without credentials the client calls exit(), which closes
    # sys.stdin.
    source = os.fdopen(os.dup(0), encoding="utf-8")
    sys.stdin = open(os.devnull)  # noqa: SIM115
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(source, requests), daemon=True).start()
    main_thread = threading.get_ident()
    while True:
        request = json.loads(requests.get())
        timer = threading.Timer(request["time_limit"], _exit_on_timeout, (main_thread, request["call"]))
        timer.daemon = True
        timer.start()
        try:
            answer: dict[str, Any] = {"value": CALLS[request["call"]](**request["arguments"])}
        except (Exception, SystemExit) as error:  # noqa: BLE001 - every failure is reported to the parent
            answer = {"failure": _describe(error)}
        timer.cancel()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read_requests(source: IO[str], requests: queue.SimpleQueue[str]) -> None:
    for line in source:
        requests.put(line)
    # The parent has exited. An upload in progress must not become a submission that the parent does not know about.
    os._exit(0)


def functions_of(frame: FrameType) -> list[str]:
    """The name of a frame's function, followed by `create_submission` once that request has been prepared.

    The request may already have been answered, so that its own function is no longer on the stack.
    """
    name = frame.f_code.co_name
    sent = (name == "competition_submit" and "submit_request" in frame.f_locals) or (
        name == "submit" and "answer" in frame.f_locals
    )
    return [name, "create_submission"] if sent else [name]


def _exit_on_timeout(thread: int, call: str) -> None:
    # The call must not proceed to its next phase between the inspection of the stack and the exit. So this thread holds
    # the global interpreter lock in between: nothing after the short sleep blocks, and with the new switch interval
    # other threads request the lock only after an hour.
    sys.setswitchinterval(3600)
    time.sleep(0.01)
    frame: FrameType | None = sys._current_frames().get(thread)
    functions: list[str] = []
    while frame is not None:
        functions += functions_of(frame)
        frame = frame.f_back
    if call == "submit" and "submit" not in functions:  # it has returned
        functions.append("create_submission")
    os._exit(TIMEOUT_STATUS[find_phase(functions)])


def _import_kaggle() -> ModuleType:
    import kaggle  # authenticates while it is imported, possibly over the network

    return kaggle


def _get_api() -> Any:
    return _import_kaggle().api


def find_credentials() -> dict[str, Any]:
    """Import the client. Returns its version and where it found credentials, never the credentials themselves."""
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.kaggle_env import get_access_token_from_env

    _, token = get_access_token_from_env()
    if token == "access_token":
        folder = os.path.expanduser("~/.kaggle")
        files = (os.path.join(folder, name) for name in ("access_token", "access_token.txt"))
        token = next(filter(os.path.exists, files), token)
    key = None
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        key = "KAGGLE_USERNAME and KAGGLE_KEY"
    elif {"username", "key"} <= _get_api().config_values.keys():
        key = KaggleApi.config
    return {
        "version": _import_kaggle().__version__,
        "method": _get_api().get_config_value("auth_method"),
        "user": _get_api().get_config_value("username"),
        "token": token,
        "key": key,
    }


def authenticate() -> None:
    """Authenticate again, to raise the error that importing the client hides."""
    _get_api().authenticate()


def get_limits(competition: str) -> dict[str, Any]:
    """Return the number of submissions made today and in total, and how many are allowed now."""
    answer = _get_api().competition_get_submission_limits(competition)
    return {"today": answer.num_today, "total": answer.num_total, "allowed": answer.num_allowed_now}


def submit(competition: str, file: str, description: str) -> dict[str, Any]:
    """Upload and submit. The client raises nothing after a failed upload: `ref` is 0, and `printed` may say why."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        answer = _get_api().competition_submit(file, description, competition, quiet=True)
    return {
        "ref": answer.ref,
        "message": answer.message,
        "printed": printed.getvalue().strip()[:_MAX_TEXT],
        "uploaded": answer.message != _get_api().COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE,
    }


def list_submissions(competition: str, token: str = "") -> dict[str, Any]:
    """Return one page of our submissions, newest first, and the token of the next page."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    request = ApiListSubmissionsRequest()
    request.competition_name = competition
    request.page_size = 100
    request.page_token = token
    if not token:
        request.page = 1  # as the client's own call does
    answer = _call_untyped("ListSubmissions", request)
    return {"submissions": answer.get("submissions") or [], "next": answer.get("nextPageToken") or ""}


def get_submission(ref: int) -> dict[str, Any]:
    """Return one submission by its ref."""
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = ref
    return _call_untyped("GetSubmission", request)


def _call_untyped(method: str, request: Any) -> dict[str, Any]:
    # The client's types raise KeyError on an unknown status, so one such submission would hide all others, and version
    # 2.2.4 has no call for a single submission. With type HttpRedirect the client returns the response itself.
    from kagglesdk.common.types.http_redirect import HttpRedirect

    with _get_api().build_kaggle_client() as client:
        answer = client.http_client().call("competitions.CompetitionApiService", method, request, HttpRedirect).json()
    if not isinstance(answer, dict):
        raise _GarbledAnswer
    return answer


def get_archive_info(competition: str) -> dict[str, Any]:
    """Return size, version and checksum of the competition's zip, from the response headers alone."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    request = ApiDownloadDataFilesRequest()
    request.competition_name = competition
    with _get_api().build_kaggle_client() as client:
        response = client.competitions.competition_api_client.download_data_files(request)
        headers = {name.lower(): value for name, value in response.headers.items()}
        suffix = response.url.split("?")[0].split(".")[-1]  # the suffix of the file that the client writes
        response.close()
    if not suffix.isalnum() or headers.get("content-type", "").startswith(("text/html", "application/json")):
        raise _GarbledAnswer  # a page instead of the archive
    md5 = re.search(r"md5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    return {
        "suffix": suffix,
        "size": int(headers["content-length"]) if headers.get("content-length", "").isdecimal() else None,
        "version": headers.get("etag") or headers.get("last-modified"),
        "md5": md5.group(1) if md5 else None,
    }


def download(competition: str, folder: str, force: bool) -> None:
    """Download the competition's zip into `folder`, resuming a partial download unless `force`."""
    _get_api().competition_download_files(competition, folder, force=force, quiet=True)


CALLS = {
    function.__name__: function
    for function in (
        find_credentials, authenticate, get_limits, submit, list_submissions, get_submission, get_archive_info, download
    )
}


class _GarbledAnswer(Exception):
    """An answer that is not from Kaggle's API."""


def _is_of_client_types(error: BaseException) -> bool:
    """Whether the client failed to convert an answer because its JSON has unexpected types."""
    entries = traceback.extract_tb(error.__traceback__)
    conversion = {"from_dict", "from_json", "prepare_from", "_prepare_response"} & {entry.name for entry in entries}
    return isinstance(error, (TypeError, ValueError, KeyError, AttributeError)) and bool(conversion)


def _describe(error: BaseException) -> dict[str, Any]:
    """Convert an exception to plain data: its kind, the server's status and Retry-After, its text."""
    response = getattr(error, "response", None)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    functions = [name for frame in frames for name in functions_of(frame)]
    classes = {base.__name__ for base in type(error).__mro__}
    if isinstance(error, SystemExit):
        kind = "credentials"
    elif isinstance(error, ImportError):
        kind = "import"
    elif response is not None:
        kind = "http"
    elif "JSONDecodeError" in classes or isinstance(error, _GarbledAnswer) or _is_of_client_types(error):
        kind = "garbled"
    elif classes & {"ConnectionError", "ProtocolError", "Timeout", "ChunkedEncodingError", "SSLError"}:
        kind = "connection"
    else:
        kind = "other"
    return {
        "kind": kind,
        "error": type(error).__name__,
        "text": _format_error(error, kind)[:_MAX_TEXT],
        "status": response.status_code if response is not None else None,
        "retry_after": response.headers.get("Retry-After") if response is not None else None,
        "phase": find_phase(functions),
    }


def _format_error(error: BaseException, kind: str) -> str:
    if kind == "garbled":
        return "the answer is not JSON, or has values of other types"
    if kind == "connection":
        # The innermost message is the operating system's (refused, reset, unknown host); the libraries wrap it.
        while inner := error.__cause__ or error.__context__:
            error = inner
    return str(error)


if __name__ == "__main__":
    main()
