"""A ``torch.autograd.Function`` as a cell or a layer, run on NumPy arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bpttcheck import trees
from bpttcheck.adapt.arguments import given, name_of, require_function, require_reference
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.adapt.subjects import AdaptedCell, AdaptedLayer
from bpttcheck.adapt.torch_gradients import AutogradGraph, pulled_back, to_array
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, Declined


def from_autograd_function(
    F: Any,
    *,
    init: Init,
    initial_state: Callable[..., Any] | None = None,
    arguments: Callable[..., tuple[Any, ...]] | None = None,
    reference: Any = None,
    sequence: bool = False,
    name: str | None = None,
) -> AdaptedCell | AdaptedLayer:
    """A cell or a layer whose backward pass is the ``backward`` of a ``torch.autograd.Function``.

    It is run as in training. A result whose cotangent is exactly zero is left out of the loss, so
    that ``backward`` gets what torch passes there: zeros, or None after
    ``ctx.set_materialize_grads(False)``. Every backward pass runs twice over its graph, as with
    ``retain_graph=True``, and the second must agree; one that refuses to run again is no mistake. A
    gradient that ``backward`` returns as None is not checked, and neither is a final state that
    ``ctx.mark_non_differentiable`` marks: the report names them.

    Args:
        F: the subclass itself. ``F.apply(*arguments)`` returns ``(y, *leaves of the new state)``,
            or one tensor that is both; with ``sequence``, ``(ys, *leaves of state_T)``, or ``ys``
            alone, whose last step is the final state.
        init: ``init(rng, n_in, n_hidden) -> params``, or a table of shapes such as
            ``{"W": ("n_hidden", "n_in"), "b": ((4, "n_hidden"),)}``, drawn as ``normal /
            sqrt(last size)``.
        initial_state: ``initial_state(params, batch_size) -> state``. The default, zeros
            ``(B, n_hidden)``, needs a table of shapes that names ``"n_hidden"``.
        arguments: ``(params, state, x) -> tuple`` of what ``F.apply`` takes, from torch tensors; it
            is the place for a ``.cuda()``, a transpose or a constant. The default is
            ``(x, *leaves of state, *parameters)``, these in the order of the names of ``init``.
        reference: what to compare with: a JAX function ``step(params, state, x) -> (state, y)`` or
            a cell. Without one the finite differences decide.
        sequence: True for a layer; ``x`` is then ``xs (T, B, n_in)``.
        name: how reports call it; the default is the name of ``F``.

    Returns:
        A cell, or a layer with ``sequence``.

    Raises:
        ContractError: torch is missing, or ``F`` is no subclass with a ``backward``.
    """
    fresh, start = parameters(init, initial_state)
    function = _require_subclass(F)
    if arguments is not None:
        require_function("arguments", arguments, ("params", "state", "x"))
    engine = TorchRule(function, arguments, sequence)
    return (AdaptedLayer if sequence else AdaptedCell)(
        name_of(name, function),
        "from_autograd_function",
        partial(engine.init, _on_numpy(fresh)),
        _on_numpy(start),
        engine.forward if sequence else engine.step,
        engine.vjp if sequence else engine.step_vjp,
        require_reference(reference),
        state_gradient=engine.final_state_gradient,
    )


def _require_subclass(F: Any) -> Any:
    try:
        from torch.autograd import Function
    except ImportError as error:
        raise ContractError(
            "from_autograd_function needs torch, which is not installed; run: pip install torch"
        ) from error
    expected = "expected a subclass of torch.autograd.Function"
    if not isinstance(F, type):
        advice = "give the class itself, not an instance and not F.apply"
        raise ContractError(f"{given('F', F)}, {expected}; {advice}", item="F")
    if not issubclass(F, Function):
        raise ContractError(f"F={F!r}, {expected}", item="F")
    if F.backward is Function.backward and F.vjp is Function.vjp:
        raise ContractError(
            f"F={F!r} has no backward, expected one to test; write a static method "
            "backward(ctx, *gradients)",
            item="F",
        )
    return F


def _on_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return trees.map_leaves(_numpy, function(*arguments))

    return run


def _numpy(leaf: Any) -> Any:
    import torch

    return to_array(leaf) if isinstance(leaf, torch.Tensor) else leaf


@dataclass
class SavedByForward:
    """What forward runs have revealed about the function.

    Args:
        final_state_gradient: False if the output carries a gradient and no leaf of the state does.
        names: the names of the parameters in the order of ``init``, by the set of them.
    """

    final_state_gradient: bool = True
    names: dict[frozenset[str], tuple[str, ...]] = field(
        default_factory=dict[frozenset[str], tuple[str, ...]]
    )


@dataclass(frozen=True, eq=False)
class TorchRule:
    """The function runs forward as in training; the graph is built again for each pull-back.

    Args:
        function: the ``torch.autograd.Function`` under test.
        arguments: ``(params, state, x) -> tuple`` for ``function.apply``, or None for the default.
        sequence: whether ``x`` is a whole sequence, and so the first result.
        seen: what its runs have shown.
    """

    function: Any
    arguments: Callable[..., Any] | None = None
    sequence: bool = False
    seen: SavedByForward = field(default_factory=SavedByForward)

    def init(self, fresh: Callable[..., Any], *arguments: Any) -> Any:
        """``fresh(*arguments)``; the order of its names is that of the arguments from then on."""
        params = fresh(*arguments)
        if isinstance(params, Mapping):
            names: tuple[str, ...] = tuple(params)
            self.seen.names.setdefault(frozenset(names), names)
        return params

    def final_state_gradient(self) -> bool:
        """False once a run has shown that the output carries a gradient and the state does not."""
        return self.seen.final_state_gradient

    def step(self, params: Any, state: Any, x: Any) -> tuple[Any, Any, Any]:
        """``(new_state, y, cache)``; the cache is what the pull-back is built from."""
        arrays, shape = trees.flatten((params, state, x))
        inputs = shape.unflatten(_tensors(arrays))
        new_state, y = self._run(inputs)[1]
        leaves = [leaf for leaf in trees.leaves(new_state) if leaf.is_floating_point()]
        if leaves and _carries_gradient(y) and not any(map(_carries_gradient, leaves)):
            self.seen.final_state_gradient = False
        return trees.map_leaves(to_array, new_state), to_array(y), (state, x)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_previous_state, d_x)`` by the function's ``backward``.

        A gradient is None where ``backward`` returned None for something that it was given.

        Raises:
            ContractError: no result of the function carries a gradient, ``backward`` fails just
                where a result takes no part in the loss, or it overwrites what it saved.
        """
        import numpy as np

        arrays, shape = trees.flatten((params, *cache))
        source = iter(
            pulled_back(lambda: self._graph(arrays, shape, (d_state, d_y)), self.function.__name__)
        )
        gradients = [next(source) if is_float(array) else np.zeros_like(array) for array in arrays]
        return shape.unflatten(gradients)

    def forward(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any, Any]:
        """``(ys, state_T, tape)``: the step, its arguments and results in a layer's order."""
        state_T, ys, tape = self.step(params, state0, xs)
        return ys, state_T, tape

    def vjp(self, params: Any, tape: Any, d_ys: Any, d_state_T: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_xs, d_state0)``: the same for the backward pass."""
        d_params, d_state0, d_xs = self.step_vjp(params, tape, d_state_T, d_ys)
        return d_params, d_xs, d_state0

    def _run(self, inputs: tuple[Any, Any, Any]) -> tuple[tuple[Any, ...], tuple[Any, Any]]:
        """What the function was given, and ``(new_state, y)`` out of what it returned."""
        import torch

        with torch.enable_grad():
            passed = self._passed(inputs)
            return passed, self._results(passed, inputs)

    def _graph(self, arrays: list[Any], shape: trees.Structure, cotangents: Any) -> AutogradGraph:
        tensors = _tensors(arrays)
        passed, results = self._run(shape.unflatten(tensors))
        wanted = [tensor.requires_grad for tensor in tensors]
        labels = _labels(("d_params", "d_state", "d_x"), shape)
        graph = AutogradGraph(
            list(itertools.compress(tensors, wanted)),
            list(itertools.compress(labels, wanted)),
            list(filter(_carries_gradient, passed)),
        )
        names = ("state_T", "ys") if self.sequence else ("state", "y")
        paths = iter(_labels(names, trees.structure(results)))

        def collect(result: Any, cotangent: Any) -> None:
            name = next(paths)
            if _carries_gradient(result):
                graph.results.append(result)
                graph.slopes.append(to_tensor(cotangent).to(result.device, result.dtype))
                graph.names.append(name)

        trees.map_leaves(collect, results, cotangents)
        if not graph.results:
            raise ContractError(
                f"no result of {self.function.__name__}.apply carries a gradient, expected that of "
                "the output and the state; are all marked non-differentiable, or integers?",
                method="backward",
            )
        return graph

    def _passed(self, inputs: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        if self.arguments is None:
            params, state, x = inputs
            # JAX and JSON sort keys, but the function expects the order of init.
            names = self.seen.names.get(frozenset(params), tuple(params))
            return (x, *trees.leaves(state), *(params[name] for name in names))
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


def _tensors(arrays: list[Any]) -> list[Any]:
    return [to_tensor(array).requires_grad_(is_float(array)) for array in arrays]


def to_tensor(array: Any) -> Any:
    """A tensor on the array's own memory where torch can, so that a mutation stays visible.

    Its strides are the array's, as long as torch has such: an axis that is broadcast stays one.
    """
    import numpy as np
    import torch

    whole: Any = np.asarray(array)
    if not issubclass(type(whole), np.ndarray):
        # An oracle that traces NumPy code passes arrays of its own.
        raise Declined(
            "code of torch cannot be traced",
            remedy="pass `reference=`, a JAX function step(params, state, x) -> (state, y)",
        )
    is_odd = min(whole.strides, default=0) < 0 or not whole.flags.aligned
    if whole.flags.writeable and not is_odd:
        return torch.from_numpy(whole)
    single = tuple(
        slice(0, 1) if stride == 0 and size > 1 else slice(None)
        for stride, size in zip(whole.strides, whole.shape, strict=True)
    )
    # Ellipsis: of an array without axes it is an array as well, and no scalar.
    return torch.from_numpy(whole[(*single, ...)].copy(order="K")).expand(whole.shape)


def _carries_gradient(tensor: Any) -> bool:
    return bool(getattr(tensor, "requires_grad", False))


def _labels(names: tuple[str, ...], shape: trees.Structure) -> list[str]:
    return [
        name + path
        for name, child in zip(names, shape.children, strict=True)
        for path in child.paths
    ]
