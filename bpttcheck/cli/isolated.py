"""Targets checked in separate worker processes: a crash is a verdict too.

While targets are being checked, the process for the next one already imports what it needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bpttcheck.cli.child import RECORD, RESULT, STACK
from bpttcheck.cli.judged import JudgedTarget, Order, of_report

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
        f"import sys; sys.path[:] = {sys.path!r}; from bpttcheck.cli.child import main; main()"
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
