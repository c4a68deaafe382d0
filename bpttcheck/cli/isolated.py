"""Targets checked in processes of their own, one after another: one that dies is a verdict too.

While a target is being checked, the process for the next one is already importing what it needs.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpttcheck.cli.child import RECORD, RESULT, STACK
from bpttcheck.cli.judged import JudgedTarget, Order, of_report

_POLL = 0.05  # seconds
_GRACE = 1.0  # seconds for a process to write down where it hangs
_IMPORTS = 60.0  # seconds for a process to import what it needs, which no timeout counts
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)

Progress = Callable[[int, int, str], None]


class Children:
    """Processes that check one target each.

    Args:
        clean: whether what user code prints goes to stderr.
        timeout: seconds after which a target is given up; None: never.
    """

    def __init__(self, clean: bool = False, timeout: float | None = None) -> None:
        self._clean = clean
        self._timeout = timeout
        self._spare: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spare is not None:
            _end(self._spare)

    def judge(self, order: Order, progress: Progress, more: bool = False) -> JudgedTarget:
        """Check one target in a process of its own.

        Args:
            order: what is asked for.
            progress: called as ``progress(done, total, what)`` now and then.
            more: whether another target follows.

        Returns:
            What the process found; if it died or was given up, an inconclusive verdict that names
            what it was doing.
        """
        process, self._spare = self._spare or _start(), None
        try:
            if more:
                self._spare = _start()
            with tempfile.TemporaryDirectory(prefix="bpttcheck-") as place:
                return self._wait(process, order, Path(place), progress)
        finally:
            _end(process)

    def _wait(
        self, process: subprocess.Popen[bytes], order: Order, folder: Path, progress: Progress
    ) -> JudgedTarget:
        told = {"order": order.to_dict(), "folder": str(folder), "clean": self._clean}
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()
        late = self._watch(process, folder, progress)
        if (folder / RESULT).exists():
            return JudgedTarget.from_dict(json.loads((folder / RESULT).read_text(encoding="utf-8")))
        how = f"did not end within {self._timeout:g} s" if late else _ending(process.returncode)
        return _lost(order, how, folder)

    def _watch(self, process: subprocess.Popen[bytes], folder: Path, progress: Progress) -> bool:
        """Wait for the end; True if that took too long and was brought about."""
        started = begun = time.monotonic()
        while True:
            try:
                process.wait(_POLL)
                return False
            except subprocess.TimeoutExpired:
                pass
            known = _record(folder)
            if "total" in known:
                progress(known["done"], known["total"], known["check"])
            elif not known and time.monotonic() - started < _IMPORTS:
                begun = time.monotonic()
            if self._timeout is not None and time.monotonic() - begun > self._timeout:
                _ask_where(process, folder)
                _end(process)
                return True


def _start() -> subprocess.Popen[bytes]:
    """A process that imports what it needs, and waits for an order."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from bpttcheck.cli.child import main; main()"
    )
    # A session of its own: Ctrl-C reaches us alone, and whatever it has started can be ended.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started, at once."""
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
    """Let a process that hangs write down its stack."""
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
    why = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"ended with signal {-code} ({name}{why})"


def _lost(order: Order, how: str, folder: Path) -> JudgedTarget:
    """The verdict on a target whose process left no result."""
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
        notes=("what the other checks found is lost with the process",),
    )
    return of_report(order, report)


def _record(folder: Path) -> dict[str, Any]:
    """What the process was doing; nothing if it had not begun or was just writing."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _place(folder: Path) -> str:
    """The innermost line of a dumped stack that is neither a library's nor ours."""
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
