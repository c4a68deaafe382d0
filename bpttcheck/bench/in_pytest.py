"""Benchmarks where users of pytest-benchmark look for them: one test for each form at each size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pytest

from bpttcheck.bench import correct
from bpttcheck.bench import sizes as known_sizes
from bpttcheck.bench.form import PreparedRun
from bpttcheck.bench.forms import FORMS
from bpttcheck.bench.report.records import Size
from bpttcheck.errors import ContractError, Declined, GradientMismatch
from bpttcheck.jax_mode import reference_mode
from bpttcheck.problems.cases import build
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
USUAL = ("numpy", "fused", "on_jax", "jax")
DTYPES = ("float64", "float32")


class TimedProblem:
    """One subject at one size in one dtype, with its right gradient.

    Args:
        subject: what is timed.
        size: the size.
        dtype: the dtype.
    """

    def __init__(self, subject: Subject, size: Size, dtype: str) -> None:
        self.subject, self.size, self.dtype = subject, size, dtype

    @cached_property
    def problem(self) -> Problem:
        """The problem, drawn once for all forms."""
        size = self.size
        case = Case(0, 0, size.T, size.B, size.n_in, size.n_hidden, self.dtype, "none", "ordinary")
        return build(self.subject, case)

    @cached_property
    def right(self) -> correct.Right:
        """JAX's gradient in float64, with its limits."""
        judge = FORMS["jax"].build(self.subject, self.problem).at
        assert judge is not None
        return correct.right(judge, self.problem)

    def __str__(self) -> str:
        size = self.size
        shape = f"T={size.T} B={size.B} n_in={size.n_in} n_hidden={size.n_hidden}"
        return f"{self.subject.name} {shape} {self.dtype}"


@dataclass(frozen=True)
class TimedForm:
    """One way to compute all gradients at one point: called with the fixture, it is timed.

    Args:
        point: where.
        key: which of :data:`bpttcheck.bench.forms.FORMS`.
    """

    point: TimedProblem
    key: str

    def __call__(self, benchmark: Any) -> None:
        """Find the gradients right, then time them; skip where there is no such form.

        Raises:
            GradientMismatch: a gradient is wrong, so nothing was timed.
        """
        __tracebackhide__ = True
        with reference_mode():
            try:
                ready = FORMS[self.key].build(self.point.subject, self.point.problem)
                self._require_right(ready)
            except Declined as refusal:
                pytest.skip(f"{FORMS[self.key].title}: {refusal}")
            benchmark.extra_info |= {
                "subject": self.point.subject.name,
                "form": self.key,
                "dtype": self.point.dtype,
                **vars_of(self.point.size),
            }
            benchmark(ready.run)

    def _require_right(self, ready: PreparedRun) -> None:
        right, blocks = self.point.right, ready.blocks(ready.run())
        block, error, limit = right.worst(blocks)
        if (own := FORMS[self.key].limit) is not None:
            error, limit = right.error(blocks), own[self.point.dtype]
        if error > limit:
            raise GradientMismatch(
                f"{block} is off by {error:.2g} of its largest entry, allowed is {limit:.1g}, so "
                f"nothing was timed ({FORMS[self.key].title}, {self.point})"
            )


def vars_of(size: Size) -> dict[str, int]:
    """A size as plain values."""
    return {"T": size.T, "B": size.B, "n_in": size.n_in, "n_hidden": size.n_hidden}


def parametrize_with_benchmarks(
    subjects: Iterable[Any],
    *,
    sizes: Sequence[Sequence[int]] | None = None,
    dtypes: Sequence[str] = ("float64",),
    forms: Sequence[str] = USUAL,
) -> Callable[[_Decorated], _Decorated]:
    """Turn a test of ``(benchmark, form)`` into one for each subject, size, dtype and form.

    ::

        @bpttcheck.parametrize_with_benchmarks([MyCell()], sizes=[(100, 8, 32, 32)])
        def test_speed(benchmark, form):
            form(benchmark)

    Each computes ``ys``, ``state_T`` and every gradient; they are compared with JAX's in float64
    before anything is timed. The forms of one subject at one size are a group of pytest-benchmark,
    so that its table, ``--benchmark-compare``, ``--benchmark-json`` and its histograms show
    hand-written beside autodiff. A form that there is not is skipped with the reason.

    Args:
        subjects: cells or layers, or :class:`bpttcheck.Subject` of one.
        sizes: ``(T, B, n_in, n_hidden)``; None: a small, a middle and a larger one.
        dtypes: out of ``"float64"`` and ``"float32"``.
        forms: out of ``"numpy"``, ``"deferred"``, ``"fused"``, ``"on_jax"``, ``"jax"``,
            ``"jax_hoisted"``, ``"jax_deferred"``, ``"torch"``, ``"jax_eager"`` and
            ``"differences"``.

    Returns:
        The decorator.

    Raises:
        ContractError: there are no subjects, or an argument is malformed.
    """
    found = [Subject.of(subject) for subject in subjects]
    if not found:
        raise ContractError("subjects is empty, expected at least one", item="subjects")
    for name, given, known in (("forms", forms, tuple(FORMS)), ("dtypes", dtypes, DTYPES)):
        wrong = [one for one in given if one not in known]
        if wrong or isinstance(given, str):
            raise ContractError(f"{name}={given!r}, expected some of {', '.join(known)}", item=name)
    chosen = known_sizes.default(quick=True) if sizes is None else [_size(one) for one in sizes]
    sets: list[Any] = []
    for subject in found:
        if subject.traits.signature is not None:
            raise ContractError(
                f"{subject.name} is a function, but cells and layers alone are timed",
                item="subjects",
            )
        for size in known_sizes.fitting(subject, chosen, given=sizes is not None):
            for dtype in dtypes:
                point = TimedProblem(subject, size, dtype)
                mark = pytest.mark.benchmark(group=str(point))
                sets += [
                    pytest.param(TimedForm(point, key), marks=mark, id=_id(point, key))
                    for key in forms
                ]
    return _Parametrize(sets)


class _Parametrize:
    """The decorator: the test must take what it is given."""

    def __init__(self, sets: list[Any]) -> None:
        self._sets = sets

    def __call__(self, function: Any) -> Any:
        missing = {"benchmark", "form"} - set(inspect.signature(function).parameters)
        if missing:
            raise ContractError(
                f"{function.__name__} takes no {' and no '.join(sorted(missing))}, expected "
                f"def {function.__name__}(benchmark, form)"
            )
        return pytest.mark.parametrize("form", self._sets)(function)


def _size(given: Sequence[int]) -> Size:
    if isinstance(given, str) or len(given) != 4:
        raise ContractError(f"size {given!r}, expected (T, B, n_in, n_hidden)", item="sizes")
    return known_sizes.parse(",".join(str(int(one)) for one in given))


def _id(point: TimedProblem, key: str) -> str:
    size = point.size
    shape = f"T{size.T}-B{size.B}-N{size.n_in}-H{size.n_hidden}"
    return f"{point.subject.name}-{shape}-{point.dtype}-{key}".replace(" ", "")
