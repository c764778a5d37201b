"""How the processes of one training find each other: at MASTER_ADDR and MASTER_PORT, within some minutes.

PyTorch allows as much time for this as for a collective. That must be days here, since the other processes wait while
the first one predicts; and while it waits, it prints stack traces. So the processes meet first: each waits until the
address answers, and then until all have arrived.
"""

from __future__ import annotations

import datetime
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import torch.distributed as dist

from registry.errors import InputError, MachineFault, one_line

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

FIND_S = 600.0
"""Seconds within which all processes of a training must have started and found each other."""
_POLL_S = 0.2
_ADDRESS = (
    "MASTER_ADDR must be the machine of the process with RANK=0, and MASTER_PORT a port that is free there and open to "
    "the others; or start them with torchrun, beside another one with torchrun --standalone"
)


def variable(name: str, least: int, most: int = 999_999) -> int:
    """One of torchrun's variables; world sizes default to 1. Raises InputError for all but an integer in the range."""
    text = os.environ.get(name, "1" if name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") else "")
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and least <= int(text) <= most):
        bounds = f"{least} or more" if most == 999_999 else f"{least} to {most}"
        raise InputError(
            f"environment variable {name} is {text[:40]!r}: expected a whole number, {bounds}, as torchrun sets "
            "it: unset it, or start with torchrun"
        )
    return int(text)


def meet(rank: int, size: int) -> Store:
    """The store of a training's processes, once all `size` have arrived. Raises MachineFault after `FIND_S`."""
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise MachineFault(_message("MASTER_ADDR is not set", "start them with torchrun"))
    port, deadline = variable("MASTER_PORT", 1, 65_535), time.monotonic() + FIND_S
    # Under torchrun, the store may be that of its agent.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    place = f"MASTER_ADDR={address}, MASTER_PORT={port}"
    if not serves:
        _wait_for_answer(address, port, place, deadline)
    shared = _open_store("localhost" if serves else address, port, serves, place, deadline)
    # When torchrun restarts the processes, it may keep its store, with the addresses of those that have ended.
    prefixed = dist.PrefixStore  # type: ignore[attr-defined]  # documented, but not exported explicitly
    store = prefixed(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    _wait_for_all(store, size, place, deadline)
    return store


def _wait_for_answer(address: str, port: int, place: str, deadline: float) -> None:
    """Wait until the first process, or torchrun's agent, accepts connections. Raises MachineFault at the deadline."""
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection((address, port), timeout=max(1.0, min(10.0, left))).close()
            return
        except OSError as error:
            if left < _POLL_S:
                raise MachineFault(
                    _message(f"no answer at {place} within {_limit()}: {one_line(error)}", _ADDRESS)
                ) from None
        time.sleep(_POLL_S)


def _open_store(host: str, port: int, serves: bool, place: str, deadline: float) -> Store:
    """The store. Raises MachineFault if the port is in use, or belongs to another program, which may never answer."""
    opened: list[Store | Exception] = []

    def connect() -> None:
        limit = datetime.timedelta(seconds=max(1.0, deadline - time.monotonic()))
        create = dist.TCPStore  # type: ignore[attr-defined]  # documented, but not exported explicitly
        try:
            opened.append(create(host, port, is_master=serves, timeout=limit, wait_for_workers=False))
        except RuntimeError as error:
            opened.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(max(1.0, deadline - time.monotonic()) + 1)
    result = opened[0] if opened else TimeoutError(f"no store of PyTorch answers within {_limit()}")
    if isinstance(result, Exception):
        raise MachineFault(_message(f"{place}: {one_line(result)}", _ADDRESS))
    return result


def _wait_for_all(store: Store, size: int, place: str, deadline: float) -> None:
    """Wait until all processes have the store. Raises MachineFault at the deadline, or if the first one ends."""
    key, arrived = "arrived", 0
    try:
        arrived = store.add(key, 1)
        while arrived < size and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            arrived = store.add(key, 0)
    except RuntimeError:
        what = f"{arrived} of {size} had arrived at {place} when the first one ended"
        raise MachineFault(_message(what, "see its own error message")) from None
    if arrived < size:
        raise MachineFault(
            _message(
                f"{arrived} of {size} arrived at {place} within {_limit()}",
                "WORLD_SIZE must be the number of processes that are started, each with its own RANK from 0 to "
                f"{size - 1} and the same MASTER_ADDR and MASTER_PORT; or start them with torchrun",
            )
        )


def _message(what: str, advice: str) -> str:
    return f"the processes of this training cannot reach each other ({what}): {advice}"


def _limit() -> str:
    return f"{FIND_S / 60:.3g} minutes"
