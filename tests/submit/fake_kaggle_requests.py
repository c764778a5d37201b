"""The HTTP side of the fake Kaggle: requests are passed to its state, and the planned faults happen on the wire."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from fake_kaggle import FakeKaggle

HTML = b"<!doctype html><title>Please sign in to the network</title>"


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


class RequestHandler(BaseHTTPRequestHandler):
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
