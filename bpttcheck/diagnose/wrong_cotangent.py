"""Everything is consistent with one wrong cotangent inside the step: where, not what."""

from __future__ import annotations

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.diagnose.surgery import blocks_of
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_graph.paths import Paths, Site
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "wrong-cotangent",
    "The mistake lies at one nonlinear function of the step, or between it and the output; all "
    "that follows from its cotangent is right.",
    "d_z = d_h * f'(z), and then d_W = d_z.T @ x, d_b = sum of d_z, d_x = d_z @ W",
    "d_z = (anything else)        # with d_W, d_b and d_x rightly made from it",
    "derive d_z again: the cotangent of h first, then the factor f'(z)",
    "All blocks together equal JAX's gradient with one other array in the place of that local "
    "derivative, which the gradients themselves determine with equations to spare.",
)

# So many more equations than unknowns, at least: else any gradient could be explained.
_SPARE = 2.0


def fit(evidence: Evidence) -> Diagnosis | None:
    """One function whose local factor, whatever it is, explains every block."""
    if evidence.sequence or not evidence.specimens:
        return None
    try:
        tables = [_residuals(s) for s in evidence.specimens]
    except BpttcheckError:
        return None
    fitting = {
        place: max(table[place][0] for table in tables)
        for place in tables[0]
        if all(place in table for table in tables)
    }
    good = {place: r for place, r in fitting.items() if r <= LIMIT}
    if len(good) != 1:
        return None  # nowhere, or not told apart
    place, residual = next(iter(good.items()))
    site = tables[0][place][1]
    return diagnosis(
        "wrong-cotangent",
        f"the mistake is at or after {site.text}, at {site.where}: what follows from the cotangent "
        "of its argument is right",
        residual, where=site.where,
    )  # fmt: skip


def _residuals(specimen: Specimen) -> dict[tuple[int, int], tuple[float, Site]]:
    """For each function the best fit over its local factor."""
    p = specimen.problem
    paths = specimen.run.paths(p)
    point = (p.params, p.state0, p.xs[0])
    shapes = [v.shape for _, v in paths.values(*point)]
    found: dict[tuple[int, int], tuple[float, Site]] = {}
    for site, shape in zip(paths.sites("function"), shapes, strict=True):
        residual = _best(specimen, paths, point, site, shape)
        if residual is not None:
            found[site.place] = (residual, site)
    return found


def _best(
    specimen: Specimen, paths: Paths, point: tuple, site: Site, shape: tuple[int, ...]
) -> float | None:
    p = specimen.problem
    size = int(np.prod(shape))
    units = np.eye(size).reshape(size, *shape)
    changes = [(site, np.zeros(shape)), *((site, unit) for unit in units)]
    gradients = [
        blocks_of(specimen, one) for one in paths.gradients(point, (p.d_state, p.d_ys[0]), changes)
    ]
    names = list(specimen.right)
    hand = np.concatenate([specimen.given(name).reshape(-1) for name in names])
    rows = [np.concatenate([g[name].reshape(-1) for name in names]) for g in gradients]
    base, basis = rows[0], np.stack([row - rows[0] for row in rows[1:]], axis=1)
    touched = np.abs(basis).max(axis=1) > 0
    if touched.sum() < _SPARE * size or not np.isfinite(hand).all():
        return None
    scale = np.abs(basis).max(axis=0)
    scale[scale == 0] = 1.0
    factor = np.linalg.lstsq(basis / scale, hand - base, rcond=None)[0] / scale
    fitted = base + basis @ factor
    cuts = np.cumsum([specimen.right[name].size for name in names])[:-1]
    parts = np.split(fitted, cuts)
    return specimen.residual(
        {n: part.reshape(specimen.right[n].shape) for n, part in zip(names, parts, strict=True)}
    )
