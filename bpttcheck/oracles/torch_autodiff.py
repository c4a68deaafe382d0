"""torch autodiff of a plain torch function in float64, with an error bar for every entry.

The loss is ``sum(output * cotangent)`` over all outputs. Its gradient is computed once exactly and
``COPIES`` times with Monte Carlo arithmetic: a dispatch mode multiplies every rounded floating
result ``o``, of the forward and of the backward pass, by ``1 + eps u`` with ``u`` uniform of mean
zero and unit variance. What is saved for the backward pass is noisy too, so that ``1 - tanh^2`` is
right to ``eps`` absolutely, as in hand-written code.

Where a branch (``relu``, ``abs``, ``clamp``, a comparison) lies within rounding of its threshold,
several gradients are right and torch knows one of them: it declines there.

Source: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002 (1997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.calibration import COPIES, KINK_MARGIN
from bpttcheck.errors import Declined
from bpttcheck.oracles.autodiff.autodiff import Spread, spread_estimate
from bpttcheck.oracles.estimate import Estimate

Array = NDArray[Any]
TorchFunction = Callable[[list[Any]], Sequence[Any]]
"""From tensors to the floating outputs that are compared."""

_EXACT = frozenset(
    "clone copy_ _to_copy cat stack index index_select gather select_backward slice_backward "
    "zeros zeros_like ones ones_like full full_like new_zeros new_full empty empty_like fill_ "
    "zero_ neg relu abs maximum minimum clamp clamp_min clamp_max max min where flip roll "
    "scatter index_put constant_pad_nd detach alias masked_fill threshold_backward".split()
)
_AT_ZERO = frozenset("relu relu_ leaky_relu abs sgn sign".split())
_BETWEEN = frozenset("maximum minimum gt ge lt le clamp clamp_min clamp_max".split())


@dataclass(frozen=True)
class TorchGradients:
    """What torch says at one point: the outputs, and the gradient of each floating input."""

    outputs: list[Spread]
    gradients: list[Spread]


def gradients(
    function: TorchFunction,
    inputs: Sequence[Array],
    cotangents: Sequence[Array],
    unit: float,
    seed: int,
) -> TorchGradients:
    """The gradient of the loss and its noisy copies.

    Args:
        function: what is differentiated.
        inputs: arrays; floating ones are used as float64, and have a gradient.
        cotangents: one for each output.
        unit: rounding unit of the checked dtype.
        seed: seed of the noise.

    Raises:
        Declined: torch cannot run or differentiate it, or a branch lies at its threshold.
    """
    runs = [_reverse(function, inputs, cotangents, unit, seed, copy) for copy in range(COPIES + 1)]
    outputs, found = zip(*runs, strict=True)
    return TorchGradients(_spreads(outputs), _spreads(found))


def directional(
    function: TorchFunction,
    inputs: Sequence[Array],
    along: Sequence[Array | None],
    cotangents: Sequence[Array],
    unit: float,
    seed: int,
) -> Estimate:
    """The derivative of the loss along a direction, by differentiating the reverse mode.

    Args:
        function: what is differentiated.
        inputs: arrays.
        along: the direction of each input; None: it is not moved.
        cotangents: one for each output.
        unit: rounding unit of the checked dtype.
        seed: seed of the noise.

    Raises:
        Declined: torch has no second derivative of it, or a branch lies at its threshold.
    """
    slopes = [
        _slope(function, inputs, along, cotangents, unit, seed, copy) for copy in range(COPIES + 1)
    ]
    return spread_estimate(Spread.of(np.array(slopes)), unit)


def _spreads(runs: Sequence[Sequence[Array]]) -> list[Spread]:
    return [Spread.of(np.stack(parts)) for parts in zip(*runs, strict=True)]


def _reverse(
    function: TorchFunction,
    inputs: Sequence[Array],
    cotangents: Sequence[Array],
    unit: float,
    seed: int,
    copy: int,
) -> tuple[list[Array], list[Array]]:
    import torch

    leaves = [_tensor(value) for value in inputs]
    wanted = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
    with _Declining(), torch.enable_grad(), _noise(unit, seed, copy):
        outputs = list(function(leaves))
        _require_plain(outputs)
        pairs = [
            (out, torch.from_numpy(np.array(slope, np.float64)))
            for out, slope in zip(outputs, cotangents, strict=True)
            if out.requires_grad
        ]
        found: Sequence[Any] = [None] * len(wanted)
        if pairs:
            results, slopes = zip(*pairs, strict=True)
            found = torch.autograd.grad(results, wanted, slopes, allow_unused=True)
    return (
        [out.detach().numpy().astype(np.float64) for out in outputs],
        [
            np.zeros(leaf.shape) if g is None else g.detach().numpy().copy()
            for leaf, g in zip(wanted, found, strict=True)
        ],
    )


def _require_plain(outputs: Sequence[Any]) -> None:
    """Decline a reference with a backward pass that somebody wrote: it would judge itself."""
    waiting = [out.grad_fn for out in outputs if out.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        written = getattr(type(node), "_forward_cls", None)
        if written is not None:
            raise Declined(
                f"the reference contains the hand-written backward pass of {written.__name__}, "
                "which would be compared with itself",
                remedy="the same in operations of torch alone",
            )
        waiting += [after for after, _ in node.next_functions if after is not None]


def _slope(
    function: TorchFunction,
    inputs: Sequence[Array],
    along: Sequence[Array | None],
    cotangents: Sequence[Array],
    unit: float,
    seed: int,
    copy: int,
) -> float:
    """``<J v, cotangent>``, where ``J v`` is the derivative of ``u -> <J^T u, v>``."""
    import torch

    leaves = [_tensor(value) for value in inputs]
    pairs = [(leaf.requires_grad_(), _tensor(v))
             for leaf, v in zip(leaves, along, strict=True) if v is not None]  # fmt: skip
    moved, directions = zip(*pairs, strict=True)
    with _Declining(), torch.enable_grad(), _noise(unit, seed, copy):
        both = zip(function(leaves), cotangents, strict=True)
        reached = [(out, slope) for out, slope in both if out.requires_grad]
        if not reached:
            return 0.0
        outputs, slopes = zip(*reached, strict=True)
        dummies = [torch.zeros_like(out, requires_grad=True) for out in outputs]
        pulled: Any = torch.autograd.grad(
            outputs, moved, dummies, create_graph=True, allow_unused=True
        )
        products: list[Any] = [
            (g * v).sum() for g, v in zip(pulled, directions, strict=True) if g is not None
        ]
        if not products:
            return 0.0
        total: Any = sum(products[1:], products[0])
        found: Any = torch.autograd.grad(total, dummies, allow_unused=True)
        return sum(
            float((tangent.detach().numpy() * slope).sum())
            for tangent, slope in zip(found, slopes, strict=True)
            if tangent is not None
        )


def _tensor(value: Array) -> Any:
    import torch

    array = np.array(value)  # of its own: a reference may write into what it is given
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array)


class _Declining:
    """What torch raises, as a refusal: a reference is no code under test."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, (RuntimeError, NotImplementedError, TypeError, ValueError)):
            raise Declined(f"torch cannot differentiate it: {error}") from error


def _noise(unit: float, seed: int, copy: int) -> Any:
    """The dispatch mode of one copy; copy 0 is exact, and looks at the branches."""
    return _mode()(unit, seed, copy)


@cache
def _mode() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noise(TorchDispatchMode):
        def __init__(self, unit: float, seed: int, copy: int) -> None:
            super().__init__()
            self.unit, self.copy = unit, copy
            self.source = torch.Generator().manual_seed(1000 * seed + copy)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func._schema.name.partition("::")[2]
            if self.copy == 0:
                _require_clear(name, args, self.unit)
            found = func(*args, **(kwargs or {}))
            returns = func._schema.returns
            is_view = bool(returns) and returns[0].alias_info is not None
            written = func._schema.is_mutable
            if self.copy == 0 or name in _EXACT or (is_view and not written):
                return found
            if written:
                for one in found if isinstance(found, (tuple, list)) else (found,):
                    if _is_rounded(one):
                        one.mul_(self._factor(one))
                return found
            if isinstance(found, (tuple, list)):
                return type(found)(self._noisy(one) for one in found)
            return self._noisy(found)

        def _noisy(self, one: Any) -> Any:
            return one * self._factor(one) if _is_rounded(one) else one

        def _factor(self, one: Any) -> Any:
            u = torch.rand(one.shape, generator=self.source, dtype=one.dtype) - 0.5
            return 1 + self.unit * np.sqrt(12.0) * u

    return Noise


def _is_rounded(value: Any) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor) and value.is_floating_point() and not value._is_zerotensor()
    )


def _require_clear(name: str, args: Sequence[Any], unit: float) -> None:
    """Refuse a branch that rounding may turn."""
    import torch

    if name not in _AT_ZERO | _BETWEEN or not _is_rounded(args[0]) or not args[0].numel():
        return
    x = args[0]
    thresholds = [0.0] if name in _AT_ZERO else [t for t in args[1:] if t is not None]
    for threshold in thresholds:
        near = KINK_MARGIN * unit * torch.maximum(x.abs(), torch.as_tensor(threshold).abs())
        if bool(((x - threshold).abs() <= near).any()):
            raise Declined(f"torch: a branch of {name} lies within rounding of its threshold")
