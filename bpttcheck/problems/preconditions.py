"""The restrictions of a subject: dtypes, lengths, batches and masks; and gradients that it omits.

A kernel may accept float32 alone, T in multiples of 16, one row, right-padded rows, or return None
for inputs that it does not differentiate. Its gradient may still be right. Declared restrictions
(the traits ``lengths``, ``batches``, ``masks``) are respected; others are detected here, excluded
from the cases, and reported as remarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, d_state0
from bpttcheck.contract import is_float
from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.problems.values import draw_mask
from bpttcheck.results.records import Case, Finding
from bpttcheck.subject.filled import absent, filled
from bpttcheck.subject.refusals import is_refusal
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

_LENGTHS = (1, 2, 3, 4, 5, 8, 12)
_MORE_LENGTHS = (6, 7, 9, 10, 11, 16, 24, 32, 35, 48, 64, 70, 96, 128, 256, 300)
_BATCHES = (1, 2, 3, 4)
_USUAL = (5, 3)  # T and B


@dataclass
class Preconditions:
    """The restrictions that were found.

    Args:
        subject: the subject with its restrictions as traits.
        dtypes: the dtypes that it accepts.
        absent: blocks for which it returns None.
        remarks: what it rejects, each as a finding on conduct.
        names: block -> what its author calls it, where that is another name.
    """

    subject: Subject
    dtypes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    remarks: list[Finding] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


def find(
    subject: Subject, dtypes: Sequence[str], sizes: tuple[int, int], seed: int
) -> Preconditions:
    """Run forward and backward at a few sizes and find what is rejected.

    Args:
        subject: what is under test.
        dtypes: the dtypes to be checked.
        sizes: ``(n_in, n_hidden)`` to run at.
        seed: the run's seed.

    Returns:
        The restrictions. If nothing runs at all, the subject is returned unchanged: the check of
        the contract reports what is wrong.
    """
    known = Preconditions(subject, tuple(dtypes))
    if subject.traits.fixed_sizes:
        return known
    probe = _Probe(subject, sizes, seed)
    start = probe.working(dtypes)
    if start is None:
        return known
    T, B, works = start
    _dtypes(known, probe, T, B, works)
    dtype = known.dtypes[0]
    if subject.kind == "layer" and subject.lengths is None:
        _lengths(known, probe, B, dtype)
    if subject.batches is None:
        _batches(known, probe, T, dtype)
    if subject.kind == "layer" and subject.supports_mask:
        _masks(known, probe, T, B, dtype)
    _omissions(known, probe, T, B, dtype)
    return known


class _Probe:
    """Runs the subject once at given sizes, with ordinary values."""

    def __init__(self, subject: Subject, sizes: tuple[int, int], seed: int) -> None:
        self.subject, self.sizes, self.seed = subject, sizes, seed

    def working(self, dtypes: Sequence[str]) -> tuple[int, int, list[str]] | None:
        """T and B at which something runs, and the dtypes that run."""
        one_step = self.subject.kind == "cell"
        lengths = (
            (1,) if one_step else self.subject.lengths or (_USUAL[0], *_LENGTHS, *_MORE_LENGTHS)
        )
        batches = self.subject.batches or (_USUAL[1], *_BATCHES)
        for T in lengths:
            for B in batches[:4]:
                works = [name for name in dtypes if self.run(T, B, name) is None]
                if works:
                    return T, B, works
        return None

    def run(self, T: int, B: int, dtype: str, mask: str = "none") -> ContractError | None:
        """The error that it raises there, or None."""
        return self.gradients(T, B, dtype, mask)[1]

    def gradients(
        self, T: int, B: int, dtype: str, mask: str = "none"
    ) -> tuple[Any, ContractError | None]:
        """``(state0, (d_params, d_x, d_state))`` of one run, or the error that it raises."""
        rng = np.random.default_rng([self.seed, T, B])
        target, number = self.subject.target, np.dtype(dtype)

        def cast(leaf: Any) -> Any:
            return np.asarray(leaf).astype(number) if is_float(leaf) else np.asarray(leaf)

        try:
            params = call("init", target.init, rng, *self.sizes)
            params = {key: cast(value) for key, value in params.items()}
            state = trees.map_leaves(cast, call("initial_state", target.initial_state, params, B))
            xs = rng.standard_normal((T, B, self.sizes[0])).astype(number)
            if self.subject.kind == "cell":
                new, y, cache = call("step", target.step, params, state, xs[0])
                ones = trees.map_leaves(np.ones_like, new)
                found = call("step_vjp", target.step_vjp, params, cache, ones, np.ones_like(y))
                return (state, (found[0], found[2], found[1])), None
            kind = Case(self.seed, 0, T, B, *self.sizes, dtype, mask, "ordinary")
            given = draw_mask(kind, rng)
            masks = () if given is None else (given,)
            ys, last, tape = call("forward", target.forward, params, xs, state, *masks)
            ones = trees.map_leaves(np.ones_like, last)
            return (state, call("vjp", target.vjp, params, tape, np.ones_like(ys), ones)), None
        except ContractError as error:
            return None, error
        except (BpttcheckError, TypeError, ValueError, AttributeError, KeyError, IndexError):
            return None, None  # malformed results: the check of the contract names them


def _dtypes(known: Preconditions, probe: _Probe, T: int, B: int, works: list[str]) -> None:
    for name in [n for n in known.dtypes if n not in works]:
        error = probe.run(T, B, name)
        if error is not None:
            sentence = f"{name} is refused, and was not checked: {error}"
            known.remarks.append(_remark(error, "dtype", sentence))
    known.dtypes = tuple(n for n in known.dtypes if n in works)


def _lengths(known: Preconditions, probe: _Probe, B: int, dtype: str) -> None:
    refused, taken = _sorted(_LENGTHS, lambda T: probe.run(T, B, dtype))
    if not refused:
        return
    more, also = _sorted(_MORE_LENGTHS, lambda T: probe.run(T, B, dtype))
    taken = sorted([*taken, *also])
    small = [T for T in refused if T == 1]
    wanted = {T: e for T, e in {**refused, **more}.items() if is_refusal(e.__cause__) or T in small}
    if not wanted or not taken:
        return
    known.subject = probe.subject = replace(probe.subject, lengths=tuple(taken))
    error = next(iter(wanted.values()))
    text = (
        f"T = {_listed(wanted)} is refused, and was not checked: {error}; T = {_listed(taken)} was"
    )
    known.remarks.append(_remark(error, "T", text))


def _batches(known: Preconditions, probe: _Probe, T: int, dtype: str) -> None:
    refused, taken = _sorted(_BATCHES, lambda B: probe.run(T, B, dtype))
    wanted = {B: e for B, e in refused.items() if is_refusal(e.__cause__)}
    if not wanted or not taken:
        return
    known.subject = probe.subject = replace(probe.subject, batches=tuple(taken))
    error = next(iter(wanted.values()))
    text = (
        f"B = {_listed(wanted)} is refused, and was not checked: {error}; B = {_listed(taken)} was"
    )
    known.remarks.append(_remark(error, "B", text))


def _masks(known: Preconditions, probe: _Probe, T: int, B: int, dtype: str) -> None:
    kinds = [kind for kind in probe.subject.masks if kind != "none"]
    refused, taken = _sorted(kinds, lambda kind: probe.run(max(T, 4), max(B, 2), dtype, kind))
    if probe.run(max(T, 4), max(B, 2), dtype) is not None:  # those sizes are rejected, not the mask
        return
    wanted = {k: e for k, e in refused.items() if is_refusal(e.__cause__) or _takes_none(e)}
    if not wanted:
        return
    known.subject = probe.subject = replace(probe.subject, masks=tuple(taken))
    error = next(iter(wanted.values()))
    names = ", ".join(kind.replace("_", " ") for kind in wanted)
    text = f"masks with {names} are refused, and were not checked: {error}"
    known.remarks.append(_remark(error, "mask", text))


def _takes_none(error: ContractError) -> bool:
    """True if the method has no argument for a mask."""
    cause = error.__cause__
    return isinstance(cause, TypeError) and "positional argument" in str(cause)


def _omissions(known: Preconditions, probe: _Probe, T: int, B: int, dtype: str) -> None:
    found, _ = probe.gradients(T, B, dtype)
    if found is None:
        return
    state, gradients = found
    if (
        not isinstance(gradients, tuple)
        or len(gradients) != 3
        or not isinstance(gradients[0], dict)
    ):
        return
    d_params, d_x, d_state = gradients
    if known.subject.kind == "cell" and d_state is None:
        return  # a loop over time cannot continue without it
    known.absent = tuple(absent(d_params, d_x, d_state, state, (d_state0(), D_XS)))
    if known.absent:
        target = filled(known.subject.target, known.subject.kind)
        known.subject = replace(known.subject, target=target)
        method = "step_vjp" if known.subject.kind == "cell" else "vjp"
        for block in known.absent:
            text = f"{method} returns None for {block}: it was not checked"
            known.remarks.append(Finding("contract", method, block, text))


def _sorted(
    options: Iterable[Any], run: Callable[[Any], ContractError | None]
) -> tuple[dict[Any, ContractError], list[Any]]:
    refused: dict[Any, ContractError] = {}
    taken: list[Any] = []
    for one in options:
        error = run(one)
        if error is None:
            taken.append(one)
        else:
            refused[one] = error
    return refused, taken


def _remark(error: ContractError, item: str, text: str) -> Finding:
    return Finding("contract", error.method, item, text, exception=str(error.__cause__ or ""))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
