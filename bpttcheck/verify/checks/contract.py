"""Shapes, dtypes, keys and structure, before any mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bpttcheck.diagnose.axes import transposed_result
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.function_cases import letters
from bpttcheck.problems.problem import nearest
from bpttcheck.subject.validate import validate_cell, validate_layer
from bpttcheck.subject.values import dtypes_noted
from bpttcheck.verify.checks.base import Check, Context

# Pairwise different sizes first, which reveal a transposition; then equal sizes; then ones.
_SIZES = ((3, 4, 2), (4, 2, 3), (2, 2, 2), (1, 1, 1), (1, 3, 1), (5, 1, 4))

_APART = {"T": 7, "B": 3, "n_in": 2, "n_hidden": 4}
"""Sizes of a function that all differ, so that no axis passes for another."""
_SHOWN = 8


def contract(context: Context) -> Tally:
    """Checks what every method returns: structure, keys, shapes, dtypes, finite values.

    Finds a missing key, a transposed or unreduced gradient, a list, a NaN, an exception. No other
    check runs on such a subject. Remarks: a float32 cell that turns float64, a gradient that is
    None, and rejected sizes, masks and dtypes.
    """
    tally = Tally("contract", conduct=list(context.run.refusals))
    if context.run.subject.traits.signature is not None:
        return _of_function(context, tally)
    drifts: list[ContractError] = []
    for n_in, n_hidden, batch_size in _sizes(context.run):
        for dtype in context.run.dtypes:
            tally.cases += 1
            try:
                with dtypes_noted(drifts):
                    _validate(context.run, n_in, n_hidden, batch_size, dtype)
            except ContractError as error:
                tally.findings.append(exception_finding("contract", error))
                tally.failures += 1
                return tally
            finally:
                context.tick()
    first = {(error.method, error.item): error for error in reversed(drifts)}
    tally.conduct += [exception_finding("contract", error) for error in reversed(first.values())]
    return tally


def _of_function(context: Context, tally: Tally) -> Tally:
    """Whether what a function and its backward pass take and return is what was said."""
    run = context.run
    for index in range(2 * len(run.dtypes)):
        tally.cases += 1
        case = replace(run.cases.case(index), regime="ordinary", **_APART)
        sizes = letters(run.subject.traits.signature, case)
        try:
            problem = run.cases.problem(case)
            hand = run.code.run(SEQUENCE, problem)
            if not hand.gradients:
                raise ContractError(
                    f"{run.code.methods[1]} returned no gradient of any input",
                    method=run.code.methods[1],
                )
        except ContractError as error:
            shown = replace(case, letters=tuple(sizes.items()))
            finding = exception_finding("contract", error, shown)
            if error.__cause__ is not None:  # it raised: perhaps the signature does not fit
                given = f"{error}; it was called as the signature says, with {_shapes(run, sizes)}"
                finding = replace(finding, message=given)
            tally.findings.append(finding)
            tally.failures += 1
            return tally
        finally:
            context.tick()
    return tally


def _shapes(run: Run, sizes: Mapping[str, int]) -> str:
    """The inputs of a function with their shapes."""
    leaves = run.subject.traits.signature.expanded(sizes)
    told = [f"{name} {leaf.shape(sizes)}" for name, leaf in leaves if leaf.axes]
    return ", ".join(told[:_SHOWN]) + (", ..." if len(told) > _SHOWN else "")


def _sizes(run: Run) -> list[tuple[int, int, int]]:
    if run.subject.traits.fixed_sizes:
        return [(t.n_in, t.n_hidden, t.B) for t in run.cases.templates[1:3]]
    allowed = run.subject.batches
    if run.cases.sizes is None:
        return [(n_in, n_hidden, nearest(B, allowed)) for n_in, n_hidden, B in _SIZES]
    batches = (2, 3, 1, 4)
    ordered = sorted(run.cases.sizes[:4], key=lambda pair: pair[0] == pair[1])
    return [(*pair, nearest(batches[i], allowed)) for i, pair in enumerate(ordered)]


def _validate(run: Run, n_in: int, n_hidden: int, batch_size: int, dtype: str) -> None:
    rng = np.random.default_rng([run.seed, n_in, n_hidden, batch_size])
    sizes = {"n_in": n_in, "n_hidden": n_hidden, "batch_size": batch_size}
    target = run.subject.target
    if run.subject.kind == "cell":
        validate_cell(target, **sizes, dtype=dtype, rng=rng, notes=run.code.notes)
    else:
        T = nearest(5, run.subject.lengths)
        validate_layer(
            target,
            T=T,
            masks=run.subject.masks,
            **sizes,
            dtype=dtype,
            rng=rng,
            notes=run.code.notes,
        )


CHECK = Check("contract", contract, says=transposed_result)
