"""A fake Kaggle on 127.0.0.1 for the real client: the endpoints it uses, a record of submissions, and planned faults.

It acts as the client's HTTP proxy (`environment`), so that the client needs neither a patch nor a special port. Each
endpoint has a queue of faults; every request takes the next one, and is served normally when the queue is empty.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fake_kaggle_requests import RequestHandler

KEY = "0123456789abcdef-the-secret-key"


@dataclass
class FakeKaggle:
    """The server's state and behaviour; use as a context manager."""

    submissions: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    """The submitted files, by ref."""
    faults: dict[str, list[str | Callable[[], str | None]]] = field(default_factory=lambda: defaultdict(list))
    requests: list[str] = field(default_factory=list)
    allowed: int = 10
    made_before: int = 0
    polls_to_score: int = 1
    score: dict[str, Any] = field(default_factory=lambda: {"status": "COMPLETE", "publicScore": "9.81234"})
    archive: bytes = b""
    cut: list[int] = field(default_factory=list)
    """Numbers of bytes after which the next downloads are cut off."""
    headers: dict[str, str] = field(default_factory=dict)
    """Extra headers of the archive."""
    token: str | None = None
    """The only valid access token."""
    lag: float = 0.0
    """Seconds from the first request for the list until it shows a submission."""
    late: float = 3.0
    """Delay, in seconds, of a request with the fault `late`, whose client no longer waits by then."""

    def __post_init__(self) -> None:
        self._uploads: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._next = 100
        self.stopping = threading.Event()

    def __enter__(self) -> FakeKaggle:
        self.stopping.clear()
        handler = type("Handler", (RequestHandler,), {"kaggle": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    def reset(self) -> None:
        """Back to the initial state; requests that still hang are released."""
        self.stopping.set()
        fresh = FakeKaggle()
        with self._lock:
            for name in self.__dataclass_fields__:
                setattr(self, name, getattr(fresh, name))
            self._uploads, self._next, self.stopping = {}, fresh._next, fresh.stopping

    def environment(self, home: Path, packages: Path | None = None) -> dict[str, str]:
        """Environment of a process whose client talks to this server, with credentials and no other Kaggle settings."""
        removed = ("KAGGLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HW3P2", "XDG_CONFIG_HOME")
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(removed)}
        environment |= {
            "HOME": str(home),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "HTTP_PROXY": f"http://127.0.0.1:{self.port}",
            "NO_PROXY": "127.0.0.1",  # not localhost: only the address of a refused upload bypasses the proxy
            "KAGGLE_USERNAME": "ada",
            "KAGGLE_KEY": KEY,
        }
        # Python gives lower-case names precedence.
        environment |= {name.lower(): environment[name] for name in ("HTTP_PROXY", "NO_PROXY")}
        if packages is not None:
            environment["PYTHONPATH"] = str(packages)
        return environment

    def fault(self, endpoint: str) -> str:
        with self._lock:
            self.requests.append(endpoint)
            for submission in self.submissions if endpoint == "ListSubmissions" else ():
                submission["asked"] = submission["asked"] or time.monotonic()
            fault = self.faults[endpoint].pop(0) if self.faults[endpoint] else ""
        return fault() or "" if callable(fault) else fault

    def restart_lag(self) -> None:
        """Let the list hide all submissions again: the next run begins before it shows them."""
        with self._lock:
            for submission in self.submissions:
                submission["asked"] = None

    # The endpoints without faults.

    def StartSubmissionUpload(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            token = f"token-{len(self._uploads)}"
            self._uploads[token] = b""
        return {"token": token, "createUrl": f"http://upload.localhost/upload/{token}?signature=do-not-print-me"}

    def upload(self, token: str, content: bytes) -> None:
        with self._lock:
            self._uploads[token] = content

    def CreateSubmission(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._next += 1
            content = self._uploads[request["blobFileTokens"]]
            self.contents[self._next] = content
            self.submissions.insert(0, {
                "ref": self._next,
                "totalBytes": len(content),
                "date": "2025-11-01T10:00:00.000Z",
                "description": request.get("submissionDescription", ""),
                "fileName": "submission.csv",
                "submittedBy": "ada",
                "polls": 0,
                "asked": None,
            })
            return {"message": "Successfully submitted", "ref": self._next}

    def _shown(self, submission: dict[str, Any]) -> dict[str, Any]:
        scored = submission["polls"] > self.polls_to_score
        state = self.score if scored else {"status": "PENDING", "publicScore": "", "privateScore": None}
        return {key: value for key, value in submission.items() if key not in ("polls", "asked")} | state

    def ListSubmissions(self, request: dict[str, Any]) -> dict[str, Any]:
        size = request.get("pageSize", 20)
        start = int(request.get("pageToken") or 0)
        with self._lock:
            visible = [item for item in self.submissions if time.monotonic() - (item["asked"] or math.inf) >= self.lag]
            page = [self._shown(submission) for submission in visible[start : start + size]]
            more = start + size < len(visible)
        return {"submissions": page, "nextPageToken": str(start + size) if more else ""}

    def GetSubmission(self, request: dict[str, Any]) -> dict[str, Any] | int:
        with self._lock:
            for submission in self.submissions:
                if submission["ref"] == request["ref"]:
                    submission["polls"] += 1
                    return self._shown(submission)
        return 404

    def GetSubmissionLimits(self, request: dict[str, Any]) -> dict[str, Any]:
        today = self.made_before + len(self.submissions)
        return {"numToday": today, "numTotal": today, "numAllowedNow": max(0, self.allowed - len(self.submissions))}

    def IntrospectToken(self, request: dict[str, Any]) -> dict[str, Any]:
        valid = request.get("token") == self.token
        return {"active": True, "username": "ada"} if valid else {"active": False}
