"""Right cells and layers of kinds that the built-ins are not, each proved right without bpttcheck.

One family a file; ``CELLS`` is every one. ``python -m benchmarks.right_cells`` asks `check` about
all of them. The proof is :mod:`benchmarks.right_cells.proof`, held by
``tests/benchmarks/test_right_cells.py``.
"""

from benchmarks.right_cells import (
    attention,
    fast_weights,
    filters,
    normalised,
    oscillators,
    scales,
    shapes,
    solvers,
    spellings,
    styles,
    tapes,
    whole,
)

FAMILIES = {
    module.__name__.rpartition(".")[2]: module.CELLS
    for module in (
        attention, fast_weights, normalised, filters, solvers, scales, shapes, oscillators,
        spellings, styles, whole, tapes,
    )
}  # fmt: skip

CELLS = tuple(cell for family in FAMILIES.values() for cell in family)
