"""The worker process in which one target is checked alone.

It reads one line of JSON, an order, and writes its result to a JSON file. A record of fixed size is
overwritten before each call of user code; if the process dies, the record tells what it was doing.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bpttcheck.activity import listen
from bpttcheck.cli.judged import JudgedTarget, Order, judge

RESULT, RECORD, STACK = "result.json", "record.json", "stack.txt"
_INPUTS = 200  # characters of the shapes of a function's inputs
_SIZE = 512  # bytes of the record, which is longer than any text in it


class Record:
    """The current activity: the check, its case, the user's method and its sizes.

    Args:
        path: the file that is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._owner = threading.get_ident()
        self._known: dict[str, Any] = {"check": "", "case": 0, "call": "", "sizes": ""}
        self._width = ""
        self._write()

    def progress(self, done: int, total: int, what: str) -> None:
        """Record the progress of the run; a new check name starts a new check."""
        case = self._known["case"] + 1 if what == self._known["check"] else 0
        self._known.update(done=done, total=total, check=what, case=case, call="", sizes="")
        self._write()

    def call(self, what: str, args: tuple[Any, ...]) -> None:
        """Record a call of user code."""
        if threading.get_ident() != self._owner:
            return
        if what == "init" and len(args) == 3:
            self._width = f"n_hidden={args[2]}"
        parts = (sizes(what, args), self._width if what != "init" else "")
        check = self._known["check"] or "contract"  # which runs first and is not announced
        self._known.update(check=check, call=what, sizes=", ".join(filter(None, parts)))
        self._write()

    def close(self) -> None:
        """Close the file; its content remains."""
        self._file.close()

    def _write(self) -> None:
        text = json.dumps(self._known).encode()
        self._file.seek(0)
        self._file.write(text.ljust(_SIZE))


def sizes(what: str, args: tuple[Any, ...]) -> str:
    """``"T=5, B=3, n_in=2, float64"``, as far as known from the arguments of user code.

    Args:
        what: the method, or another activity.
        args: its arguments.
    """
    inputs = getattr(args[0], "params", args[0]) if args and what not in _PLACES else None
    if isinstance(inputs, Mapping):  # of a function, whatever its author calls it
        shapes = ((name, np.shape(value)) for name, value in inputs.items())
        return ", ".join(f"{name} {shape}" for name, shape in shapes)[:_INPUTS]
    if what == "init":
        args = args[1:]
    place, names = _PLACES.get(what, (len(args) - 1, "B n_in"))
    if what in ("init", "initial_state"):
        return ", ".join(f"{n}={arg}" for n, arg in zip(names.split(), args[place:], strict=False))
    if not 0 <= place < len(args):
        return ""
    shape = getattr(args[place], "shape", ())
    parts = [f"{name}={size}" for name, size in zip(names.split(), shape, strict=False)]
    return ", ".join([*parts, str(getattr(args[place], "dtype", ""))]).strip(", ")


# The argument that has the sizes, and its axes.
_PLACES = {
    "init": (0, "n_in n_hidden"),
    "initial_state": (1, "B"),
    "step": (2, "B n_in"),
    "step_vjp": (3, "B n_out"),
    "forward": (1, "T B n_in"),
    "vjp": (2, "T B n_out"),
}


def main() -> None:
    """Check the target named in the first line of standard input, and exit."""
    orders = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _warm_up()
    line = orders.readline()
    if not line:
        return  # the parent has no more targets
    threading.Thread(target=_end_with, args=(orders,), daemon=True).start()
    told = json.loads(line)
    folder = Path(told["folder"])
    if told["clean"]:
        sys.stdout.flush()
        os.dup2(2, 1)
    stack = (folder / STACK).open("w", encoding="utf-8")
    faulthandler.enable(stack)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, stack)
    record = Record(folder / RECORD)
    listen(record.call)
    _answer(folder / RESULT, _judged(Order.from_dict(told["order"]), record))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing started by user code may keep this process alive


def _judged(order: Order, record: Record) -> JudgedTarget:
    try:
        return judge(order, record.progress)
    except KeyboardInterrupt:
        return JudgedTarget(
            order.target, error="interrupted by its own code: it raised KeyboardInterrupt"
        )
    except Exception:
        what = "this is an error in bpttcheck, not in what it checked"
        return replace(JudgedTarget(order.target), error=f"{traceback.format_exc()}\n{what}")


def _answer(path: Path, judged: JudgedTarget) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(judged.to_dict()), encoding="utf-8")
    draft.replace(path)


def _warm_up() -> None:
    """Import what every check needs while the previous target is being checked."""
    for name in ("bpttcheck.oracles.autodiff.autodiff", "bpttcheck.verify.check"):
        importlib.import_module(name)


def _end_with(parent: BinaryIO) -> None:
    """End this process once the parent is gone: nobody would read its result."""
    parent.read()
    os._exit(1)
