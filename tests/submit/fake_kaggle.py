"""A fake Kaggle on 127.0.0.1 for the real client: the endpoints it uses, a record of submissions, and planned faults.

It acts as the client's HTTP proxy (`environment`), so that the client needs neither a patch nor a special port. Each
endpoint has a queue of faults; every request takes the next one, and is served normally when the queue is empty.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

HTML = b"<!doctype html><title>Please sign in to the network</title>"
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
        handler = type("Handler", (_Handler,), {"kaggle": self})
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


class _Handler(BaseHTTPRequestHandler):
    kaggle: FakeKaggle
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        request = json.loads(self._body() or b"{}")
        method = urlsplit(self.path).path.rsplit("/", 1)[-1]
        self._serve(method, lambda: self._call(method, request))

    def _call(self, method: str, request: dict[str, Any]) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.headers.get("Authorization", "").startswith("Bearer ") and token != self.kaggle.token:
            return self._answer(401, {"code": 401, "message": f"Unauthenticated: {token}"})
        if method == "DownloadDataFiles":
            return self._send(302, b"", {"Location": "http://files.localhost/files/archive.zip?signature=do-not-print-me"})
        answer = getattr(self.kaggle, method)(request)
        if answer == 404:
            return self._answer(404, {"code": 404, "message": "Not found"})
        return self._answer(200, answer)

    def do_PUT(self) -> None:
        token = urlsplit(self.path).path.rsplit("/", 1)[-1]
        fault = self.kaggle.fault("upload")
        if fault == "reset":
            self.rfile.read(10)
            self._reset()
            return
        content = self._body()

        def store() -> None:
            self.kaggle.upload(token, content)
            self._send(200, b"")

        self._serve("", store, fault)

    def do_GET(self) -> None:
        self._serve("archive", self._file)

    def _file(self) -> None:
        content = self.kaggle.archive
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        headers = {
            "Content-Type": "application/zip",
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest}"',
            "Last-Modified": "Sat, 01 Nov 2025 10:00:00 GMT",
            "x-goog-hash": f"crc32c=AAAAAA==,md5={digest}",
        } | self.kaggle.headers
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.kaggle.cut.pop(0) if self.kaggle.cut and self.kaggle.requests.count("archive") > 1 else None
        self.kaggle.requests.append(f"archive from {start}")
        self._send(206 if start else 200, content[start:], headers, cut)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self, endpoint: str, serve: Callable[[], object], fault: str | None = None) -> None:
        fault = self.kaggle.fault(endpoint) if fault is None else fault
        stopping = self.kaggle.stopping
        if not fault:
            serve()
        elif fault == "reset":
            self._reset()
        elif fault == "hang":
            stopping.wait(30)
            self._reset()
        elif fault == "late":
            # The server completes the request although its client has given up.
            time.sleep(self.kaggle.late)
            with contextlib.suppress(OSError):
                serve()
        elif fault in ("lost", "lost-html", "lost-500", "lost-429", "lost-type", "lost-hang"):
            original, answers = self._send, list[tuple]()
            self._send = lambda *answer: answers.append(answer)  # type: ignore[method-assign]
            serve()
            self._send = original  # type: ignore[method-assign]
            if fault == "lost-hang":
                stopping.wait(30)
            if fault == "lost-html":
                self._send(200, HTML, {"Content-Type": "text/html"})
            elif fault in ("lost-500", "lost-429"):
                self._answer(int(fault[5:]), {"code": int(fault[5:]), "message": "Internal error"})
            elif fault == "lost-type":
                self._answer(200, {"message": "Successfully submitted", "ref": "abc"})
            else:
                self._reset()
        elif fault == "html":
            self._send(200, HTML, {"Content-Type": "text/html"})
        elif fault == "no-ref":
            self._answer(200, {"message": "Successfully submitted"})
        elif fault.startswith("json "):
            self._send(200, fault.removeprefix("json ").encode(), {"Content-Type": "application/json"})
        elif fault.startswith("echo "):
            # A gateway that quotes the request's credentials in its error.
            _, status, spelling = fault.split()
            header = self.headers.get("Authorization", "")
            secret = base64.b64decode(header[6:]).decode() if header.startswith("Basic ") else header
            quoted = f"{SPELLINGS[spelling](secret)} {SPELLINGS[spelling](secret.split(':')[-1].split()[-1])}"
            text = f"invalid header {header!r}, {quoted} in https://h.localhost/u?signature=do-not-print-me"
            self._answer(int(status), {"code": int(status), "message": text})
        elif fault == "refused":
            # A port on which nothing listens; the client connects to it without the proxy.
            self._answer(200, {"token": "token-refused", "createUrl": "http://127.0.0.1:9/upload?signature=do-not-print-me"})
        elif fault == "unknown-status":
            with self.kaggle._lock:
                score, self.kaggle.score = self.kaggle.score, {"status": "RESCORING"}
                polls, self.kaggle.polls_to_score = self.kaggle.polls_to_score, -1
                serve()
                self.kaggle.score, self.kaggle.polls_to_score = score, polls
        else:
            status, _, after = fault.partition(" ")
            headers = {"Retry-After": after} if after else {}
            self._answer(int(status), {"code": int(status), "message": _MESSAGES.get(int(status), "")}, headers)

    def _answer(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body if cut is None else body[:cut])
            self.wfile.flush()
        self.close_connection = True

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


def _wrap(text: str) -> str:
    return "\n".join(text[start : start + 7] for start in range(0, len(text), 7))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "repr": lambda text: repr(text.encode()),
    "wrapped": _wrap,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64-wrapped": lambda text: _wrap(base64.b64encode(text.encode()).decode()),
    "url": lambda text: quote(text, safe=""),
    "percent": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "hex": lambda text: text.encode().hex(),
    "escaped": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
}

_MESSAGES = {
    400: "Submission not allowed:  Your team has used its daily Submission allowance",
    401: "Unauthenticated",
    403: "Permission 'competitions.participate' was denied",
    404: "Not found",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}
