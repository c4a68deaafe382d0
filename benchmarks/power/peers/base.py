"""What a peer is, and how it is asked."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.power.flat import Flat


@dataclass(frozen=True)
class Settings:
    """A choice of step and tolerance in place of a peer's defaults."""

    eps: float
    tol: float


@dataclass(frozen=True)
class Named:
    """The block and the time step that a message names: ``""`` and None if none."""

    block: str
    step: int | None


@dataclass(frozen=True)
class Peer:
    """Another gradient checker.

    Args:
        name: what it is called.
        package: the package that it comes with.
        look: look at a layer with the given settings or the defaults; raises if it is not content.
        named: what a message names.
        steps: steps to choose from, float64.
        steps32: steps to choose from, float32.
        defaults: how it is called, in words.
    """

    name: str
    package: str
    look: Callable[[Flat, Settings | None], None]
    named: Callable[[str, Flat], Named]
    steps: tuple[float, ...]
    steps32: tuple[float, ...]
    defaults: str

    @property
    def missing(self) -> str:
        """Why it cannot be asked, or ``""``."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return ""


@dataclass(frozen=True)
class Answer:
    """What a checker said.

    Args:
        flagged: it was not content.
        message: what it said then.
        forward: forward passes of the code under test.
        backward: backward passes.
        seconds: time taken.
        spent: it was stopped because its forward passes were used up.
        traced: forward passes of a traced copy of the code, noisy ones included.
    """

    flagged: bool
    message: str = ""
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    spent: bool = False
    traced: int = 0


def ask(peer: Peer, flat: Flat, settings: Settings | None = None) -> Answer:
    """Ask a peer; an exception of any kind counts as a flag, unless it ran out of calls."""
    calls = flat.calls
    before = calls.forward, calls.backward
    started = time.perf_counter()
    flagged, message = False, ""
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # it prints every exception
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            peer.look(flat, settings)
        except Exception as error:
            flagged, message = not calls.spent, str(error) or type(error).__name__
    return Answer(
        flagged, message if flagged else "", calls.forward - before[0],
        calls.backward - before[1], time.perf_counter() - started, calls.spent,
    )  # fmt: skip


def version(package: str) -> str:
    """The version of a package."""
    return importlib.metadata.version(package)
