"""Edits of the backward pass of a whole sequence, tried on its unrolled graph.

A function or a layer has no step of its own that could be changed. Its forward pass, traced, has
every operation once for each step; a mistake in the loop changes all of them alike. Each edit here
is such a mistake, and the gradient that it gives is compared with the hand-derived one.
"""

from __future__ import annotations

from bpttcheck.diagnose.whole.search import EditSearch

__all__ = ["EditSearch"]
