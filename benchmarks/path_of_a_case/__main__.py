"""The path of one gradient case, from ``check`` to the verdict, as a reader follows the calls.

    python -m benchmarks.path_of_a_case            # the figures
    python -m benchmarks.path_of_a_case --calls    # every step of the path

Runs ``check(Elman(), checks=[name], examples=1)`` with a profiler and looks at the calls in the
packages through which a case goes: ``verify``, ``judge`` and ``problems``. What they stand on
(names, trees, calls of user code) and the inside of an oracle are read apart.

A function is read once, where it is first called. The call is a *step* if its caller, the nearest
function of these packages up the stack, is in another module. A step *enters* a module of which
nothing has been read; else it *returns*: the reader turns back to a module that was left. Going
back to the caller when a function is over is no step.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import bpttcheck
from bpttcheck.cells import Elman

CHECKS = ("step_vjp", "sequence_vjp")
PACKAGES = tuple(f"bpttcheck.{name}." for name in ("verify", "judge", "problems"))


@dataclass(frozen=True)
class Step:
    """A call from one module into another.

    Args:
        caller: the calling function, with its module; ``""`` for the first.
        called: the called one.
        returns: whether something of its module has been read.
    """

    caller: str
    called: str
    returns: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", action="store_true", help="print every step")
    options = parser.parse_args()
    for name in CHECKS:
        found = path_of(name)
        returns = sum(step.returns for step in found)
        print(f"{name}: {len(found) - returns} modules, {returns} returns")
        for step in found if options.calls else ():
            print("  returns" if step.returns else "  enters ", step.caller, "->", step.called)


def path_of(name: str) -> list[Step]:
    """The path of one case of a check, with its programs compiled."""

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bpttcheck.check(Elman(), checks=[name], examples=1, raises=False)

    run()
    return path(run)


def path(run: Callable[[], Any], packages: tuple[str, ...] = PACKAGES) -> list[Step]:
    """The steps of a call.

    Args:
        run: what is called.
        packages: beginnings of the names of the modules that are looked at.
    """
    steps: list[Step] = []
    functions: set[CodeType] = set()
    modules: set[str] = set()

    def seen(frame: FrameType | None) -> bool:
        return (
            frame is not None
            and _module(frame).startswith(packages)
            and not frame.f_code.co_filename.startswith("<")  # what a dataclass generates
        )

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not seen(frame) or frame.f_code in functions:
            return
        caller = frame.f_back
        while caller is not None and not seen(caller):
            caller = caller.f_back
        module = _module(frame)
        if caller is None or _module(caller) != module:
            steps.append(Step(_name(caller) if caller else "", _name(frame), module in modules))
        functions.add(frame.f_code)
        modules.add(module)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return steps


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")


def _name(frame: FrameType) -> str:
    return f"{_module(frame).removeprefix('bpttcheck.')}.{frame.f_code.co_qualname}"


if __name__ == "__main__":
    main()
