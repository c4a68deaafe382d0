"""Targets checked in separate worker processes: a crash is a verdict too.

While targets are being checked, the process for the next one already imports what it needs. It
reads one line of JSON, an order, and writes its result to a JSON file. A record of fixed size is
overwritten before each call of user code; if the process dies, the record tells what it was doing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bpttcheck.activity import listen
from bpttcheck.cli.judged import JudgedTarget, Order, judge, of_report

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


_POLL = 0.05  # seconds
_GRACE = 1.0  # seconds for a process to dump where it hangs
_IMPORTS = 60.0  # seconds for a process to import what it needs, not counted in the timeout
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)

Progress = Callable[[int, int, str], None]


class Children:
    """Processes that check one target each.

    Args:
        orders: all targets to check, in this order.
        jobs: how many are checked at a time.
        clean: whether what user code prints goes to stderr.
        timeout: seconds after which a target is given up; None: never.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        jobs: int = 1,
        clean: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._waiting = deque(orders)
        self._jobs = jobs
        self._clean = clean
        self._timeout = timeout
        self._running: deque[_Child] = deque()
        self._spare: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._running:
            child.close()
        if self._spare is not None:
            _end(self._spare)

    def next(self, progress: Progress) -> JudgedTarget:
        """Wait for the next target, while those behind it are being checked, too.

        Args:
            progress: called as ``progress(done, total, what)`` now and then.

        Returns:
            The result of its process; if it died or timed out, an inconclusive verdict that names
            what it was doing.
        """
        while True:
            self._fill()
            first = self._running[0]
            # A finished process makes room for another, even if its result is reported later.
            for child in self._running:
                child.look()
            if first.found is not None:
                self._running.popleft()
                return first.found
            first.tell(progress)
            first.wait()

    def _fill(self) -> None:
        while self._waiting and sum(one.found is None for one in self._running) < self._jobs:
            process, self._spare = self._spare or _start(), None
            order = self._waiting.popleft()
            self._running.append(_Child(process, order, self._clean, self._timeout))
        if self._waiting and self._spare is None:
            self._spare = _start()


class _Child:
    """One process and its order."""

    def __init__(
        self, process: subprocess.Popen[bytes], order: Order, clean: bool, timeout: float | None
    ) -> None:
        self._process, self._order, self._timeout = process, order, timeout
        self._place = tempfile.TemporaryDirectory(prefix="bpttcheck-")
        self._folder = Path(self._place.name)
        self._started = self._begun = time.monotonic()
        self.found: JudgedTarget | None = None
        """Its result; None while it runs."""
        message = {"order": order.to_dict(), "folder": str(self._folder), "clean": clean}
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()

    def wait(self) -> None:
        """Wait a moment, or until it ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL)

    def tell(self, progress: Progress) -> None:
        """Report its progress."""
        known = _record(self._folder)
        if "total" in known:
            progress(known["done"], known["total"], known["check"])

    def look(self) -> None:
        """Check whether it has ended, and end it after the timeout."""
        if self.found is not None:
            return
        late = self._process.poll() is None and self._is_late()
        if late:
            _ask_where(self._process, self._folder)
            _end(self._process)
        if self._process.poll() is None:
            return
        result = self._folder / RESULT
        if result.exists():
            self.found = JudgedTarget.from_dict(json.loads(result.read_text(encoding="utf-8")))
        else:
            code = self._process.returncode
            how = f"did not end within {self._timeout:g} s" if late else _ending(code)
            self.found = _lost(self._order, how, self._folder)
        self.close()

    def close(self) -> None:
        """End it and its children, and remove its files."""
        _end(self._process)
        self._place.cleanup()

    def _is_late(self) -> bool:
        if self._timeout is None:
            return False
        now = time.monotonic()
        if now - self._started < _IMPORTS and not _record(self._folder):
            self._begun = now
        return now - self._begun > self._timeout


def _start() -> subprocess.Popen[bytes]:
    """A process that imports what it needs, and waits for an order."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from bpttcheck.cli.isolated import main; main()"
    )
    # A session of its own: Ctrl-C reaches the parent alone, and all its children can be ended.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and its children at once."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _ask_where(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Make a process that hangs dump its stack."""
    if not hasattr(signal, "SIGUSR1") or not (folder / STACK).exists():
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGUSR1)
    until = time.monotonic() + _GRACE
    while not _place(folder) and time.monotonic() < until and process.poll() is None:
        time.sleep(_POLL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before its checks were over"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"ended with signal {-code} ({name}{why})"


def _lost(order: Order, how: str, folder: Path) -> JudgedTarget:
    """The verdict on a target whose process wrote no result."""
    from bpttcheck.results.records import CheckResult, Verdict
    from bpttcheck.results.report import Report

    known = _record(folder)
    case, details = known.get("case", 0), []
    for detail in (known.get("call"), known.get("sizes"), _place(folder)):
        if detail:
            details.append(str(detail))
    check = str(known.get("check") or "")
    where = f"in case {case} of {check}" if check else "while the target was loaded"
    reason = f"the process {how} {where}" + (f" ({'; '.join(details)})" if details else "")
    result = CheckResult(check or "contract", Verdict.INCONCLUSIVE, cases=case, reason=reason)
    options = order.options
    report = Report(
        order.target,
        (result,),
        seed=options["seed"],
        examples=options["examples"],
        notes=("the results of the other checks are lost with the process",),
    )
    return of_report(order, report)


def _record(folder: Path) -> dict[str, Any]:
    """What the process was doing; empty if it had not begun or was just writing."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _place(folder: Path) -> str:
    """The innermost line of a dumped stack outside libraries and bpttcheck."""
    try:
        text = (folder / STACK).read_text(encoding="utf-8")
    except OSError:
        return ""
    package = str(Path(__file__).parents[1])
    library = str(Path(os.__file__).parent)
    stack = text.partition("Current thread")[2].partition("\n\n")[0]
    for frame in _FRAME.finditer(stack):
        file = frame["file"]
        if not file.startswith((package, library, "<")) and "site-packages" not in file:
            return f"{Path(file).name}:{frame['line']} in {frame['name']}"
    return ""
