"""Schemas of the official client's answers: Kaggle, or a proxy in between, may answer anything."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from registry.json_files import convert

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Scalar = str | int | float | None


class _Credentials(Struct):
    version: str
    method: str | None
    user: str | None
    token: str | None
    key: str | None


class _Limits(Struct):
    today: _Count
    total: _Count
    allowed: _Count


class _Sent(Struct):
    ref: _Count
    message: str
    printed: str
    uploaded: bool


class _Submission(Struct):
    """Fields may be missing: the client omits those that have their type's default."""

    ref: _Count
    description: str | None = None
    submittedBy: str | None = None
    status: str | int | None = None
    publicScore: _Scalar = None
    privateScore: _Scalar = None
    errorDescription: str | None = None


class _Page(Struct):
    submissions: list[_Submission]
    next: str


class _Archive(Struct):
    suffix: str
    size: _Count | None
    version: str | None
    md5: str | None


_SCHEMAS: dict[str, type] = {
    "find_credentials": _Credentials,
    "get_limits": _Limits,
    "submit": _Sent,
    "list_submissions": _Page,
    "get_submission": _Submission,
    "get_archive_info": _Archive,
}


def check_answer(call: str, answer: Any) -> None:
    """Raise `InputError` if the answer to this call of `submit.worker` has a value of an unexpected type."""
    if schema := _SCHEMAS.get(call):
        convert(answer, schema, call)
