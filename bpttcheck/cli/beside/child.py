"""The process that times one revision: orders on stdin, answers on stdout, as lines of JSON.

Its text is run with the folders of a revision first on ``sys.path``: all that it imports, be it
``bpttcheck`` itself, is of that revision. So it uses little, and nothing that is new.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class TimedForms:
    """The forms of one point, prepared and then timed on demand."""

    def __init__(self) -> None:
        self._runs: dict[str, Callable[[], Any]] = {}
        self._subjects: dict[str, Any] = {}

    def prepare(
        self, target: str, function: dict[str, str], size: list[int], dtype: str, forms: list[str]
    ) -> dict[str, Any]:
        """Make the forms of a target at a size, and compare their gradients with JAX.

        Args:
            target: as on the command line.
            function: the options of a function.
            size: ``T, B, n_in, n_hidden``.
            dtype: the dtype.
            forms: the keys; what there is not is left out.

        Returns:
            ``ready``: form -> seconds of a warm call; ``wrong``: form -> what is wrong with it.
        """
        from bpttcheck.bench import correct
        from bpttcheck.bench.forms import FORMS
        from bpttcheck.cli.targets import load
        from bpttcheck.errors import Declined
        from bpttcheck.subject.subject import Subject

        if target not in self._subjects:
            self._subjects[target] = Subject.of(load(target, function).subject)
        subject = self._subjects[target]
        problem = _problem(subject, size, dtype)
        try:
            judge = FORMS["jax"].build(subject, problem).at
            right = None if judge is None else correct.right(judge, problem)
        except Declined:
            right = None
        self._runs.clear()
        ready: dict[str, float] = {}
        wrong: dict[str, str] = {}
        for form in forms:
            try:
                made = FORMS[form].build(subject, problem)
                blocks = made.blocks(made.run())
            except (Declined, KeyError):
                continue
            block, error, limit = ("", 0.0, 0.0) if right is None else right.worst(blocks)
            if error > limit:
                wrong[form] = f"{block} is off by {error:.2g} of its largest entry"
                continue
            self._runs[form] = made.run
            ready[form] = min(self.seconds(form, 1) for _ in range(2))
        return {"ready": ready, "wrong": wrong}

    def seconds(self, form: str, calls: int) -> float:
        """Seconds of one call, the mean of several."""
        run = self._runs[form]
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) / calls


def _problem(subject: Any, size: list[int], dtype: str) -> Any:
    from bpttcheck.problems.cases import build
    from bpttcheck.results.records import Case

    T, B, n_in, n_hidden = size
    case = Case(0, 0, T, B, n_in, n_hidden, dtype, "none", "ordinary")
    if subject.traits.signature is None:
        return build(subject, case)
    from bpttcheck.problems.function_cases import build_function
    from bpttcheck.problems.values import FREE

    return build_function(subject, case, 0, FREE)


def serve() -> None:
    """Answer orders until there are none."""
    # What user code prints goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        import jax
        import numpy as np

        from bpttcheck.jax_mode import enable_x64

        forms = TimedForms()
        gc.disable()
        with enable_x64(), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
            for line in sys.stdin:
                order = json.loads(line)
                try:
                    answer = {"found": getattr(forms, order.pop("do"))(**order)}
                except Exception as error:  # the parent says what went wrong, and where
                    text = (str(error).strip() or "no message").splitlines()[0]
                    answer = {"error": f"{type(error).__name__}: {text}"}
                gc.collect()
                answers.write(json.dumps(answer) + "\n")
                answers.flush()


if __name__ == "__main__":
    serve()
