"""How far a run of checks has come, as its caller is told."""

from __future__ import annotations

from collections.abc import Callable

from bpttcheck.judge.run import Run
from bpttcheck.subject.options import Options
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``."""


class ProgressCounter:
    """Turns ticks of single cases into progress of the whole run."""

    def __init__(
        self, run: Run, options: Options, names: list[str], progress: Progress | None
    ) -> None:
        laws = Context(run, options.examples).laws
        self._share = {n: options.examples if CHECKS[n].mode else laws for n in names}
        self._progress, self._done = progress, 0
        self._name, self._in_check = "", 0
        self.total = sum(self._share.values())

    def start(self, name: str) -> Callable[[], None]:
        """The tick of one check."""
        self._done += self._share.get(self._name, 0)
        self._name, self._in_check = name, 0
        self._tell()
        return self._tick

    def _tick(self) -> None:
        self._in_check = min(self._in_check + 1, self._share.get(self._name, 0))
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            try:
                self._progress(self._done + self._in_check, self.total, self._name)
            except Exception as error:
                raise CallersError from error


class CallersError(Exception):
    """The caller's own ``progress`` raised; ``__cause__`` is what."""
