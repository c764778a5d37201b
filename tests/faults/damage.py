"""Ways to damage a file: each is a function of its path, and the same seed gives the same damage."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Damage = Callable[[Path], None]
DELETED = object()
VALUES: dict[str, Any] = {
    "deleted": DELETED, "null": None, "true": True, "-1": -1, "0": 0, "1e99": 1e99, "nan": float("nan"),
    "10**30": 10**30, "text": "x", "newline": "a\nb\u2028c", "list": [], "object": {}, "nested": [[{"a": [1]}]],
    "surrogate": "\udcff", "half a pair": "\ud800", "null byte": "a\0b", "traversal": "../../../../etc/passwd",
    "long": "x" * 5000,
}
HEADERS = {
    "unclosed": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), ",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -2), }",
    "absurd": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**12}, {10**12}), }}",
    "beyond int64": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 0), }}",
    "boolean": "{'descr': '<f4', 'fortran_order': False, 'shape': (True, True), }",
    "floats": "{'descr': '<f4', 'fortran_order': False, 'shape': (3.0, 2.0), }",
    "list shape": "{'descr': '<f4', 'fortran_order': False, 'shape': [3, 2], }",
    "no shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    "70 dimensions": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 70}), }}",
    "structured": "{'descr': [('a', '<f4'), ('b', '<i2')], 'fortran_order': False, 'shape': (3, 2), }",
    "nested structure": "{'descr': [('a', [('b', '<f4', (2, 3))])], 'fortran_order': False, 'shape': (3,), }",
    "empty structure": "{'descr': [], 'fortran_order': False, 'shape': (3, 2), }",
    "void": "{'descr': '|V0', 'fortran_order': False, 'shape': (3, 2), }",
    "empty strings": f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({10**12},), }}",
    "object": "{'descr': '|O', 'fortran_order': False, 'shape': (3, 2), }",
    "complex": "{'descr': '<c8', 'fortran_order': False, 'shape': (3, 1), }",
    "time": "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3, 1), }",
    "type number": "{'descr': 7, 'fortran_order': False, 'shape': (3, 2), }",
    "type text": "{'descr': 'no type', 'fortran_order': False, 'shape': (3, 2), }",
    "nested parentheses": "(" * 5000,
    "nested lists": "[" * 300 + "]" * 300,
    "extra key": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), 'more': 1, }",
    "order text": "{'descr': '<f4', 'fortran_order': 'yes', 'shape': (3, 2), }",
    "call": "__import__('os').system('true')",
    "tab": "\t{'descr': '<f4',\n 'fortran_order': False",
    "long": "{'descr': '<f4', " + " " * 60_000 + "}",
    "long integer suffix": "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 2L), }",
    "nul": "{'descr': '<f4', \0 'fortran_order': False, 'shape': (3, 2), }",
}
CONTENTS: dict[str, bytes] = {
    "empty": b"", "newline": b"\n", "zeros": bytes(4096), "ones": b"\xff" * 300, "text": b"not a file of this kind\n",
    "zip": b"PK\x03\x04" + bytes(100), "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
    "html": b"<!doctype html><html><body>Sign in</body></html>\n", "bom": b"\xef\xbb\xbf{}", "brackets": b"[" * 100_000,
    "number": b"1" * 5000, "magic": b"\x93NUMPY", "magic 9": b"\x93NUMPY\x09\x09\xff\xff\xff\xff",
    "long header": struct.pack("<Q", 2**62) + b"{}", "no header": struct.pack("<Q", 2) + b"[]",
}


def replace(content: bytes) -> Damage:
    """Another content."""
    return lambda path: _write(path, content)


def header(text: str, version: int = 1) -> Damage:
    """A `.npy` file with this text as header and 24 bytes of data."""
    body = text.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(body) & 0xFFFF if version == 1 else len(body))
    return replace(b"\x93NUMPY" + bytes([version, 0]) + size + body + bytes(24))


def truncate(share: float) -> Damage:
    """Only the first part of the file."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        _write(path, data[: int(share * len(data))])

    return damage


def flip(seed: int, first: float = 0.0, last: float = 1.0) -> Damage:
    """One bit, drawn by `seed` from this part of the file."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        rng = random.Random(seed)
        place = rng.randrange(int(first * len(data)), max(int(last * len(data)), int(first * len(data)) + 1))
        data[place] ^= 1 << rng.randrange(8)
        _write(path, bytes(data))

    return damage


def flip_in_header(seed: int, size: int) -> Damage:
    """One bit of the first `size` bytes."""

    def damage(path: Path) -> None:
        data, rng = bytearray(path.read_bytes()), random.Random(seed)
        data[rng.randrange(min(size, len(data)))] ^= 1 << rng.randrange(8)
        _write(path, bytes(data))

    return damage


def splice(seed: int) -> Damage:
    """A stretch of bytes that is removed, doubled, or overwritten with random ones."""

    def damage(path: Path) -> None:
        data, rng = path.read_bytes(), random.Random(seed)
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.randrange(1, 200))
        between = [b"", data[start:stop] * 2, rng.randbytes(stop - start)][seed % 3]
        _write(path, data[:start] + between + data[stop:])

    return damage


def special(kind: str) -> Damage:
    """Something that is no regular file in the file's place."""

    def damage(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make_special(path, kind)

    return damage


SPECIAL = ("folder", "pipe", "socket", "dangling link", "loop", "link to device", "link to null", "deleted")


def make_special(path: Path, kind: str) -> None:
    """Make something that is no regular file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()  # a socket's name may have 107 bytes
            os.chdir(path.parent)
            server.bind(path.name)
            os.chdir(here)
    elif kind == "dangling link":
        path.symlink_to("missing")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "link to device":
        path.symlink_to("/dev/zero")
    elif kind == "link to null":
        path.symlink_to("/dev/null")


def keys_of(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to the values in parsed JSON: all of objects, and of a list the first two and the last."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = [(place, content[place]) for place in sorted({0, 1, len(content) - 1} & set(range(len(content))))]
    for key, value in items:
        yield (*prefix, key)
        yield from keys_of(value, (*prefix, key))


def with_value(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """Parsed JSON with another value at `keys`, or without it."""
    content = json.loads(json.dumps(content))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return content


def change_json(keys: tuple[Any, ...], value: Any) -> Damage:
    """Another value at `keys` of a JSON file."""
    return lambda path: _write(path, json.dumps(with_value(json.loads(path.read_bytes()), keys, value)).encode())


def change_line(line: int, keys: tuple[Any, ...], value: Any) -> Damage:
    """Another value at `keys` of one line of a JSON-lines file."""

    def damage(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[line] = json.dumps(with_value(json.loads(lines[line]), keys, value))
        _write(path, ("\n".join(lines) + "\n").encode())

    return damage


def change_header(keys: tuple[Any, ...], value: Any) -> Damage:
    """Another value at `keys` of the header of a safetensors file."""

    def damage(path: Path) -> None:
        content, body = split_safetensors(path.read_bytes())
        text = json.dumps(with_value(content, keys, value)).encode()
        _write(path, struct.pack("<Q", len(text)) + text + body)

    return damage


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def object_array(elements: list[Any], count: int) -> Damage:
    """An object array of `count` elements, taken from these in turn."""

    def damage(path: Path) -> None:
        array = np.empty(count, object)
        for index in range(count):
            array[index] = elements[index % len(elements)]
        np.save(path, array, allow_pickle=True)

    return damage


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
