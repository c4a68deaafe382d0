"""Terminal output: colours, width, and a progress line."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Generator
from types import TracebackType

import click

from bpttcheck.results.words import WIDTH

_COLOURS = {
    "passed": "green",
    "failed": "red",
    "inconclusive": "yellow",
    "skipped": "cyan",
    "expected failure": "cyan",
}
_WORD = "|".join(_COLOURS)
_VERDICT = re.compile(rf"^(?P<start>)(?P<word>{_WORD})(?=  )", re.IGNORECASE)
_ROW = re.compile(rf"^(?P<start>  \w+  +)(?P<word>{_WORD})(?= )", re.IGNORECASE)
_GATHERED = re.compile(rf"^(?P<start>  )(?P<word>{_WORD})(?=:| .cases.:)", re.IGNORECASE)
_DIAGNOSIS = re.compile(r"^(?P<start>   -> )(?P<word>[\w-]+)(?=: )")
_INTERVAL = 0.1  # seconds between two updates of the progress line


def paint(text: str) -> str:
    """A report with coloured verdicts; ``click.echo`` strips colours where unwanted."""
    return "\n".join(_paint_line(line) for line in text.split("\n"))


def columns() -> int:
    """The width of the terminal, but at most that of a page."""
    return min(WIDTH, max(60, shutil.get_terminal_size((WIDTH, 24)).columns))


@contextlib.contextmanager
def stdout_kept_clean(wanted: bool) -> Generator[None]:
    """Send what the user's code prints to stderr, so that stdout is one JSON document."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


class Progress:
    """One progress line on stderr, rewritten in place and removed at the end; terminals only.

    Args:
        label: what is being checked.
        enabled: False for no output.
    """

    def __init__(self, label: str, enabled: bool = True) -> None:
        self.label = label
        self.live = enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.last = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that ``done`` of ``total`` are finished."""
        now = time.monotonic()
        if not self.live or now - self.last < _INTERVAL:
            return
        self.last = now
        line = f"{self.label}: {done}/{total} {what}"[: columns() - 1]
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()


def _paint_line(line: str) -> str:
    for pattern in (_VERDICT, _ROW, _GATHERED):
        match = pattern.match(line)
        if match:
            word = match["word"]
            styled = click.style(word, fg=_COLOURS[word.lower()], bold=word.isupper() or None)
            return match["start"] + styled + line[match.end() :]
    match = _DIAGNOSIS.match(line)
    if match:
        return match["start"] + click.style(match["word"], bold=True) + line[match.end() :]
    return line
