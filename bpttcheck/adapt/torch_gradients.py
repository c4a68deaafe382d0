"""The gradients of a torch graph, computed as training code computes them.

A result that takes no part in a loss gets no cotangent there: torch passes zeros of its own, or
None after ``ctx.set_materialize_grads(False)``. And one graph serves several losses, with
``retain_graph=True``: the second backward pass must find what the first one has found.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpttcheck.contract import Array
from bpttcheck.errors import ContractError, Declined

Gradients = list[Array | None]

# Where sums come in another order each time, the second pass may depart from the first by this
# many times what passes over this many graphs of their own depart from it.
_FRESH = 4
_SPREADS = 16.0


@dataclass(frozen=True, eq=False)
class AutogradGraph:
    """A torch graph: its results and its sources.

    Args:
        sources: the tensors whose gradients are wanted.
        labels: what the gradient of each of them is called.
        passed: what the function was given, as far as it carries a gradient.
        results: the results that carry a gradient.
        slopes: the cotangent of each of them.
        names: what each of them is called.
    """

    sources: list[Any]
    labels: list[str]
    passed: list[Any]
    results: list[Any] = field(default_factory=list[Any])
    slopes: list[Any] = field(default_factory=list[Any])
    names: list[str] = field(default_factory=list[str])

    def used(self) -> list[bool]:
        """The results that take part in the loss; all where every cotangent is zero."""
        used = [slope.numel() == 0 or bool(slope.any()) for slope in self.slopes]
        return used if any(used) else [True] * len(used)

    def reached(self) -> list[bool]:
        """Which of the sources lie before what the function was given."""
        import torch

        if not self.passed:
            return [False] * len(self.sources)
        ones = [torch.ones_like(tensor) for tensor in self.passed]
        found: tuple[Any, ...] = torch.autograd.grad(
            self.passed, self.sources, ones, retain_graph=True, allow_unused=True
        )
        return [gradient is not None for gradient in found]

    def gradients(self, used: Sequence[bool]) -> Gradients:
        """The gradients of the sum of ``result * slope`` over the results that are used."""
        import torch

        results, slopes = (
            list(itertools.compress(tensors, used)) for tensors in (self.results, self.slopes)
        )
        found: tuple[Any, ...] = torch.autograd.grad(
            results, self.sources, slopes, retain_graph=True, allow_unused=True
        )
        return [None if gradient is None else to_array(gradient) for gradient in found]


def pulled_back(build: Callable[[], AutogradGraph], function: str) -> Gradients:
    """The gradients of the sources, None where ``backward`` returned None.

    A result whose cotangent is exactly zero is left out of the loss. None stands for zeros then, as
    it does in torch.

    Args:
        build: makes the graph again.
        function: its name.

    Returns:
        One gradient for each source.

    Raises:
        ContractError: ``backward`` fails just where a result is left out, or gives another gradient
            the second time over the same graph.
    """
    import numpy as np

    graph = build()
    used = graph.used()
    kept = [slope.clone() for slope in graph.slopes]
    try:
        found = graph.gradients(used)
    except Exception as error:
        if all(used) or not _succeeds(build):
            raise
        raise _fails_where_unused(graph, used, function, error) from error
    if _are_equal(kept, graph.slopes):  # a changed cotangent is found by another check
        _require_the_same_again(build, graph, used, found, function)
    whole: Gradients = []
    for source, reached, gradient in zip(graph.sources, graph.reached(), found, strict=True):
        if gradient is None and not (reached and all(used)):
            gradient = np.zeros_like(to_array(source))
        whole.append(gradient)
    return whole


def to_array(tensor: Any) -> Array:
    """The tensor's numbers in memory of their own."""
    import numpy as np

    return np.array(tensor.detach().cpu().numpy())


def pulled_to_differentiate(
    require: Callable[[Sequence[Any], Sequence[Any]], None],
    function: Callable[..., Any],
    floats: list[Any],
    slopes: list[Any],
) -> list[Any]:
    """The gradients of float inputs, in a graph that can be differentiated once more.

    Args:
        require: refuses a graph by its results and its gradients.
        function: the forward pass.
        floats: its float inputs.
        slopes: the cotangents of its results.
    """
    import torch

    with torch.enable_grad():
        wanted = [x if x.requires_grad else x.detach().requires_grad_() for x in floats]
        pairs = zip(function(wanted), slopes, strict=True)
        reached = [(result, slope) for result, slope in pairs if result.requires_grad]
        if not reached:
            return [torch.zeros_like(x) for x in wanted]
        results, cotangents = zip(*reached, strict=True)
        found: Any = torch.autograd.grad(
            results, wanted, cotangents, create_graph=True, allow_unused=True
        )
        require(results, found)
        pairs = zip(found, wanted, strict=True)
        return [torch.zeros_like(x) if g is None else g for g, x in pairs]


def require_differentiable(results: Sequence[Any], gradients: Sequence[Any]) -> None:
    """Refuse gradients in whose graph torch has marked that nothing flows back through them.

    Raises:
        ContractError: a backward pass is marked ``@once_differentiable``.
    """
    if any(type(node).__name__ == "Error" for node in _graph_of(gradients)):
        written = [node for node in _graph_of(results) if hasattr(type(node), "_forward_cls")]
        names = sorted({type(node)._forward_cls.__name__ for node in written})
        raise ContractError(
            f"a backward pass ({', '.join(names) or 'of an autograd.Function'}) is marked "
            "@once_differentiable, expected one that autograd can differentiate: take the mark "
            "away and write it in operations of torch, or check order=1 alone",
            method="backward",
        )


def require_plain(results: Sequence[Any], gradients: Sequence[Any]) -> None:
    """Decline a reference with a backward pass that somebody wrote: it would judge itself.

    Raises:
        Declined: the graph of the results has one.
    """
    for node in _graph_of(results):
        if hasattr(type(node), "_forward_cls"):
            raise Declined(
                "the reference contains the hand-written backward pass of "
                f"{type(node)._forward_cls.__name__}, which would be compared with itself",
                remedy="the same in operations of torch alone",
            )


def _graph_of(tensors: Sequence[Any]) -> set[Any]:
    """Every node of the graph behind some tensors."""
    waiting = [one.grad_fn for one in tensors if one is not None and one.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [after for after, _ in node.next_functions if after is not None]
    return seen


def _succeeds(build: Callable[[], AutogradGraph]) -> bool:
    graph = build()
    try:
        graph.gradients([True] * len(graph.results))
    except Exception:
        return False
    return True


def _fails_where_unused(
    graph: AutogradGraph, used: list[bool], function: str, error: Exception
) -> ContractError:
    unused = list(itertools.compress(graph.names, [not one for one in used]))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}".rstrip(": ")
    return ContractError(
        f"{function}.backward raised {type(error).__name__}: {error} ({place}) where "
        f"{' and '.join(unused)} takes no part in the loss, expected the gradient of the rest; "
        "after ctx.set_materialize_grads(False) torch hands in None for such a result, else zeros",
        method="backward",
        item=f"d_{unused[0]}",
    )


def _require_the_same_again(
    build: Callable[[], AutogradGraph],
    graph: AutogradGraph,
    used: list[bool],
    first: Gradients,
    function: str,
) -> None:
    try:
        second = graph.gradients(used)
    except Exception:
        # A graph that cannot be used twice raises: no gradient is wrong.
        return
    label = _departing(graph.labels, first, second, [])
    if label is None:
        return
    fresh = [build().gradients(used) for _ in range(_FRESH)]
    label = _departing(graph.labels, first, second, fresh)
    if label is not None:
        raise ContractError(
            f"{function}.backward gives another gradient the second time over the same graph "
            f"(retain_graph=True, as for several losses): another {label}, expected the same; it "
            "overwrites what it saved: compute into new memory instead of in place",
            method="backward",
            item=label,
        )


def _departing(
    labels: list[str], first: Gradients, second: Gradients, fresh: list[Gradients]
) -> str | None:
    """The first block that departs by more than passes over graphs of their own do."""
    for i, label in enumerate(labels):
        spread = max((_gap(first[i], one[i]) for one in fresh), default=0.0)
        if _gap(first[i], second[i]) > _SPREADS * spread:
            return label
    return None


def _gap(a: Array | None, b: Array | None) -> float:
    import numpy as np

    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(np.abs(a - b).max(), nan=np.inf))


def _are_equal(these: Sequence[Any], those: Sequence[Any]) -> bool:
    import torch

    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))
