"""How a torch graph is asked for gradients in training, beside all of them at once.

The gradient of an input must not depend on which others require one, on which other outputs take
part in the loss, or on how the memory of a cotangent is laid out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.adapt.torch_gradients import AutogradGraph, Gradients
from bpttcheck.errors import ContractError

# Larger cases have the same code and cost more.
_SMALL = 2048


def require_conduct(
    build: Callable[[Sequence[int] | None], AutogradGraph], whole: Gradients, function: str
) -> None:
    """Ask a small graph in every way.

    Args:
        build: makes the graph again, with those inputs requiring a gradient; None: all.
        whole: the gradient of each input where all require one.
        function: its name.

    Raises:
        ContractError: one way fails or gives another gradient; it says which.
    """
    graph = build(None)
    if sum(source.numel() for source in graph.sources) > _SMALL or not all(graph.used()):
        return
    everything = [True] * len(graph.results)
    if len(whole) > 1:
        for i, label in enumerate(graph.labels):
            if whole[i] is None:
                continue
            alone = build([i])
            way = f"where only the input of {label} requires a gradient"
            found = _asked(
                lambda one=alone: one.gradients([True] * len(one.results)), way, function
            )
            _require_equal(found, [whole[i]], [label], way, function)
    if len(graph.results) > 1:
        parts = [
            _asked(
                lambda k=k: graph.gradients([j == k for j in range(len(everything))]),
                f"where {name} alone takes part in the loss",
                function,
            )
            for k, name in enumerate(graph.names)
        ]
        for place, label in enumerate(graph.labels):
            none = [n for n, part in zip(graph.names, parts, strict=True) if part[place] is None]
            way = "summed over losses of one output each"
            if none and whole[place] is not None:
                way += f" (it is None where {' or '.join(none)} alone takes part in the loss)"
            summed = _summed([part[place : place + 1] for part in parts])
            _require_equal(summed, whole[place : place + 1], [label], way, function)
    way = "for a cotangent that is expanded, as that of `sum(0)` is"
    ones = _with_ones(build(None), expanded=False).gradients(everything)
    loose = _with_ones(build(None), expanded=True)
    found = _asked(lambda: loose.gradients(everything), way, function)
    _require_equal(found, ones, graph.labels, way, function)


def _with_ones(graph: AutogradGraph, expanded: bool) -> AutogradGraph:
    """The graph with cotangents of ones."""
    import torch

    graph.slopes[:] = [
        torch.ones(one.shape[1:], dtype=one.dtype, device=one.device).expand(one.shape)
        if expanded
        else torch.ones_like(one)
        for one in graph.results
    ]
    return graph


def _asked(ask: Callable[[], Gradients], way: str, function: str) -> Gradients:
    try:
        return ask()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}".rstrip(": ")
        raise ContractError(
            f"{function}: backward raised {type(error).__name__}: {error} ({place}) {way}, "
            "expected the same gradient",
            method="backward",
        ) from error


def _summed(parts: Sequence[Gradients]) -> Gradients:
    """The sum of gradients, where None adds nothing; None where all are None."""
    sums: Gradients = []
    for column in zip(*parts, strict=True):
        known = [one for one in column if one is not None]
        sums.append(np.sum(known, axis=0) if known else None)
    return sums


def _require_equal(
    found: Gradients, whole: Gradients, labels: Sequence[str], way: str, function: str
) -> None:
    """Equal in half of their digits: another order of the sums is no mistake."""
    for one, other, label in zip(found, whole, labels, strict=True):
        if one is None and other is None:
            continue
        if _apart(one, other):
            raise ContractError(
                f"{function}: another {label} {way}, expected the same as otherwise",
                method="backward",
                item=label,
            )


def _apart(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return other is None or bool(np.any(other))
    with np.errstate(all="ignore"):
        scale = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
        gap = np.abs(one - other).max(initial=0.0)
    if not np.isfinite(scale):
        return False  # what overflows is judged elsewhere
    return bool(gap > np.sqrt(np.finfo(one.dtype).eps) * scale)
