"""One wrong cotangent inside the step, of whatever kind, that explains every gradient."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Array, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.diagnose.graph_edits import blocks_of
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_graph.paths import EditSite, Paths
from bpttcheck.results.records import Diagnosis

_WRONG_COTANGENT_PAGE = Page(
    "wrong-cotangent",
    "The mistake lies at one nonlinear function of the step, or between it and the output; all "
    "that follows from its cotangent is right.",
    "d_z = d_h * f'(z), and then d_W = d_z.T @ x, d_b = sum of d_z, d_x = d_z @ W",
    "d_z = (anything else)        # with d_W, d_b and d_x rightly made from it",
    "derive d_z again: the cotangent of h first, then the factor f'(z)",
    "All blocks together equal JAX's gradient with one other array in the place of that local "
    "derivative, which the gradients themselves overdetermine.",
)

# So many blocks may have a mistake of their own beside the one that is located.
_OTHER_BUGS = 1
# The minimum excess of equations over unknowns: with fewer, any gradient could be explained.
_SPARE = 2.0


def _fit_wrong_cotangent(evidence: Evidence) -> Diagnosis | None:
    """One function whose local factor, whatever it is, explains every block."""
    if evidence.sequence or not evidence.examples:
        return None
    others = [name for name in evidence.examples[0].right if name != evidence.block]
    try:
        for several in range(1 + min(_OTHER_BUGS, len(others))):
            found = [_located(evidence, left_out) for left_out in combinations(others, several)]
            good = [one for one in found if one is not None]
            if good:  # several places are not told apart
                return good[0] if len(good) == 1 else None
    except BpttcheckError:
        return None
    return None


def _located(evidence: Evidence, left_out: tuple[str, ...]) -> Diagnosis | None:
    """The one place that explains all blocks but those with a mistake of their own."""
    tables = [_fits(s, left_out, evidence.notes) for s in evidence.examples]
    fitting = {
        place: max(table[place].residual for table in tables)
        for place in tables[0]
        if all(place in table for table in tables)
    }
    good = {place: r for place, r in fitting.items() if r <= LIMIT}
    if len(good) != 1:
        return None  # nowhere, or not told apart
    place, residual = next(iter(good.items()))
    site = tables[0][place].site
    by_example = zip(evidence.examples, tables, strict=True)
    evidence.assume({id(s): table[place].gradient for s, table in by_example})
    but = f", but for {' and '.join(left_out)}" if left_out else ""
    return diagnosis(
        "wrong-cotangent",
        f"the mistake is at or after {site.text}, in the gradient of {site.where}: what "
        f"follows from the cotangent of its argument is right{but}",
        residual, where=site.where,
    )  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    """A local factor that was fitted: its residual, and the gradient that it gives."""

    residual: float
    site: EditSite
    gradient: dict[str, Array]


def _fits(
    example: FailingExample, left_out: tuple[str, ...], notes: dict[str, Any]
) -> dict[tuple[int, int], _Fit]:
    """For each function the best fit over its local factor."""
    p = example.problem
    paths = example.run.jax.paths(p)
    point = (p.params, p.state0, p.xs[0])
    shapes = [v.shape for _, v in paths.values(*point)]
    found: dict[tuple[int, int], _Fit] = {}
    made: dict[Any, list[dict[str, Array]]] = notes.setdefault("factors", {})
    for site, shape in zip(paths.sites("function"), shapes, strict=True):
        key = (id(example), site.place)
        if key not in made:
            made[key] = _of_factors(example, paths, point, site, shape)
        fit = _best(example, made[key], site, shape, left_out)
        if fit is not None:
            found[site.place] = fit
    return found


def _of_factors(
    example: FailingExample, paths: Paths, point: tuple, site: EditSite, shape: tuple[int, ...]
) -> list[dict[str, Array]]:
    """The gradient for a local factor of zero, and for each factor that is one at one entry."""
    p, size = example.problem, int(np.prod(shape))
    units = np.eye(size).reshape(size, *shape)
    changes = [(site, np.zeros(shape)), *((site, unit) for unit in units)]
    found = paths.gradients(point, (p.d_state, p.d_ys[0]), changes)
    return [blocks_of(example, one) for one in found]


def _best(
    example: FailingExample,
    gradients: list[dict[str, Array]],
    site: EditSite,
    shape: tuple[int, ...],
    left_out: tuple[str, ...],
) -> _Fit | None:
    size = int(np.prod(shape))
    names = [name for name in example.right if name not in left_out]
    hand = np.concatenate([example.given(name).reshape(-1) for name in names])
    rows = [_flat(g, names) for g in gradients]
    base, basis = rows[0], np.stack([row - rows[0] for row in rows[1:]], axis=1)
    touched = np.abs(basis).max(axis=1, initial=0.0) > 0
    if touched.sum() < _SPARE * size or not np.isfinite(hand).all():
        return None
    scale = np.abs(basis).max(axis=0)
    scale[scale == 0] = 1.0
    factor = np.linalg.lstsq(basis / scale, hand - base, rcond=None)[0] / scale
    whole = list(example.right)
    flat = [_flat(g, whole) for g in gradients]
    fitted = flat[0] + np.stack([row - flat[0] for row in flat[1:]], axis=1) @ factor
    parts = np.split(fitted, np.cumsum([example.right[name].size for name in whole])[:-1])
    made = {
        n: part.reshape(example.right[n].shape) for n, part in zip(whole, parts, strict=True)
    }  # fmt: skip
    return _Fit(example.residual({n: made[n] for n in names}), site, made)


def _flat(gradients: dict[str, Array], names: list[str]) -> Array:
    return np.concatenate([gradients[name].reshape(-1) for name in names])


WRONG_COTANGENT = Rule(_WRONG_COTANGENT_PAGE, _fit_wrong_cotangent)
"""All blocks are consistent with one wrong cotangent inside the step, which is located."""
