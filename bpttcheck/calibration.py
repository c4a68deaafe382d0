"""The constants of the error model.

``python -m benchmarks.calibration`` measures what they rest on and prints this table beside the
measurements; ``docs/evidence/calibration.md`` holds its latest output. No problem, cell or test has
a tolerance of its own.
"""

from __future__ import annotations

COPIES = 8
"""Noisy samples of JAX's program for each case: enough for an rms within a factor of two."""

LIMIT = 32.0
"""Largest ratio of error to the width ``s`` of the bar that rounding is trusted to explain."""

BLOCK_FLOOR = 0.05
"""Share of a block's largest spread that every entry's width contains.

Eight samples can agree on one entry by chance; the entries of a block do not all do so at once.
"""

BLIND = 1e-2
"""A block whose width exceeds this share of its largest entry is no evidence: the case is blind."""

KINK_MARGIN = 16.0
"""A branch closer to its threshold than this many spreads of the threshold's argument is free."""

JUDGED_SHARE = 0.05
"""Smallest share of a check's cases in which each block must have been judged."""

DIFFERENCE_LIMIT = 8.0
"""Largest distance from a finite difference, in widths of its bar."""

LAW_COPIES = 4
"""Perturbed runs of the hand-written code itself, which set the width of a law's bar."""
