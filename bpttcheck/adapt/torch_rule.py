"""A ``torch.autograd.Function`` run on NumPy arrays: its value and its pull-back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bpttcheck import trees
from bpttcheck.adapt.arguments import given
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError, Declined


@dataclass(frozen=True, eq=False)
class TorchRule:
    """The function runs forward without a graph; the graph is built anew for each pull-back.

    Args:
        function: the ``torch.autograd.Function`` under test.
        arguments: ``(params, state, x) -> tuple`` for ``function.apply``, or None for the default.
        sequence: whether ``x`` is a whole sequence, and so the first result.
    """

    function: Any
    arguments: Callable[..., Any] | None = None
    sequence: bool = False

    def step(self, params: Any, state: Any, x: Any) -> tuple[Any, Any, Any]:
        """``(new_state, y, cache)``; the cache is what the pull-back is built from."""
        import torch

        with torch.no_grad():
            inputs = trees.map_leaves(_tensor, (params, state, x))
            new_state, y = trees.map_leaves(to_array, self._results(self._passed(inputs), inputs))
        return new_state, y, (state, x)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_previous_state, d_x)`` by the function's ``backward``.

        Raises:
            ContractError: ``backward`` returned None for an input that carries a gradient, or no
                result of the function does.
        """
        import numpy as np
        import torch

        arrays, shape = trees.flatten((params, *cache))
        tensors = [_tensor(array).requires_grad_(is_float(array)) for array in arrays]
        inputs = shape.unflatten(tensors)
        with torch.enable_grad():
            passed = self._passed(inputs)
            results = self._results(passed, inputs)
        sources = [tensor for tensor in tensors if tensor.requires_grad]
        live = [tensor for tensor in passed if _carries_gradient(tensor)]
        reached = _gradients(live, [torch.ones_like(tensor) for tensor in live], sources)
        found = self._pulled_back(results, (d_state, d_y), sources)

        pairs = iter(zip(reached, found, strict=True))
        gradients: list[Array] = []
        for array, label in zip(arrays, _labels(shape), strict=True):
            reach, gradient = next(pairs) if is_float(array) else (None, None)
            if reach is not None and gradient is None:
                raise self._no_gradient(label)
            gradients.append(np.zeros_like(array) if gradient is None else to_array(gradient))
        return shape.unflatten(gradients)

    def forward(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any, Any]:
        """``(ys, state_T, tape)``: the step, its arguments and results in a layer's order."""
        state_T, ys, tape = self.step(params, state0, xs)
        return ys, state_T, tape

    def vjp(self, params: Any, tape: Any, d_ys: Any, d_state_T: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_xs, d_state0)``: the same for the backward pass."""
        d_params, d_state0, d_xs = self.step_vjp(params, tape, d_state_T, d_ys)
        return d_params, d_xs, d_state0

    def _passed(self, inputs: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        if self.arguments is None:
            params, state, x = inputs
            return (x, *trees.leaves(state), *trees.leaves(params))
        passed = self.arguments(*inputs)
        if not isinstance(passed, tuple):
            raise ContractError(
                f"arguments returned {given('it', passed)}, expected a tuple of what "
                f"{self.function.__name__}.apply takes",
                item="arguments",
            )
        return passed

    def _results(self, passed: tuple[Any, ...], inputs: tuple[Any, Any, Any]) -> tuple[Any, Any]:
        """``(new_state, y)`` out of what the function returns."""
        import torch

        shape = trees.structure(inputs[1])
        out = self.function.apply(*passed)
        if isinstance(out, torch.Tensor):
            if shape.size == 1 and not self.sequence:
                return shape.unflatten([out]), out
            if shape.size == 1:
                last = out[-1] if len(out) else trees.leaves(inputs[1])[0]
                return shape.unflatten([last]), out
            out = (out,)
        if len(out) != 1 + shape.size:
            raise ContractError(
                f"{self.function.__name__}.apply returned {len(out)} tensors, expected "
                f"{1 + shape.size}: the output, then each leaf of the state, {shape.describe()}",
                method="forward",
            )
        return shape.unflatten(out[1:]), out[0]

    def _pulled_back(self, results: Any, cotangents: Any, sources: list[Any]) -> list[Any]:
        outputs: list[Any] = []
        slopes: list[Any] = []

        def collect(result: Any, cotangent: Any) -> None:
            if _carries_gradient(result):
                outputs.append(result)
                slopes.append(_tensor(cotangent).to(result.device, result.dtype))

        trees.map_leaves(collect, results, cotangents)
        if not outputs:
            raise ContractError(
                f"no result of {self.function.__name__}.apply carries a gradient, expected that of "
                "the output and the state; are all marked non-differentiable, or integers?",
                method="backward",
            )
        return _gradients(outputs, slopes, sources)

    def _no_gradient(self, label: str) -> ContractError:
        return ContractError(
            f"{self.function.__name__}.backward returned None for {label}, expected its gradient; "
            "return zeros if it has none",
            method="backward",
            item=label,
        )


def _tensor(array: Any) -> Any:
    """A tensor on the array's own memory where torch can, so that a mutation stays visible."""
    import numpy as np
    import torch

    whole: Any = np.asarray(array)
    if not issubclass(type(whole), np.ndarray):
        # An oracle that traces NumPy code hands in arrays of its own.
        raise Declined(
            "code of torch cannot be traced",
            remedy="pass `reference=`, a JAX function step(params, state, x) -> (state, y)",
        )
    if not whole.flags.writeable or min(whole.strides, default=0) < 0:
        whole = whole.copy()
    return torch.from_numpy(whole)


def to_array(tensor: Any) -> Array:
    """The tensor's numbers in memory of their own."""
    import numpy as np

    return np.array(tensor.detach().cpu().numpy())


def _carries_gradient(tensor: Any) -> bool:
    return bool(getattr(tensor, "requires_grad", False))


def _gradients(outputs: Sequence[Any], slopes: Sequence[Any], sources: list[Any]) -> list[Any]:
    import torch

    if not outputs:
        return [None] * len(sources)
    found = torch.autograd.grad(outputs, sources, slopes, retain_graph=True, allow_unused=True)
    return list(found)


def _labels(shape: trees.Structure) -> list[str]:
    names = ("d_params", "d_state", "d_x")
    return [
        name + path
        for name, child in zip(names, shape.children, strict=True)
        for path in child.paths
    ]
