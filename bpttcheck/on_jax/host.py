"""Cells and layers in NumPy, called back from JAX on the host."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bpttcheck import trees
from bpttcheck.errors import ContractError
from bpttcheck.on_jax.arguments import is_float
from bpttcheck.on_jax.form import JaxArray
from bpttcheck.traits import Traits


class HostCallbackWarning(UserWarning):
    """A subject has no native form in JAX and is called back on the host."""


def warn_of_the_cost(subject: Any) -> None:
    """Say once what a host callback costs."""
    warnings.warn(
        f"{type(subject).__name__} has no native form in JAX. It runs in NumPy on the host: nothing"
        " is compiled, the backward pass runs the forward pass again, arrays are copied from and to"
        " the device, and jax.vmap runs its batch one by one. To silence:"
        " warnings.simplefilter('ignore', bpttcheck.on_jax.HostCallbackWarning)",
        HostCallbackWarning,
        stacklevel=3,
    )


class HostTape(NamedTuple):
    """The arguments: NumPy's tape may hold anything, and cannot travel through JAX."""

    params: Any
    xs: JaxArray
    state0: Any
    mask: JaxArray | None


@dataclass(frozen=True, eq=False)
class HostLoops:
    """A layer in NumPy over a whole sequence, one callback each way.

    The shapes of the results are found by running the layer on zeros, once for each set of shapes.

    Args:
        layer: any :class:`bpttcheck.Layer`.
        found: the shapes of the results found so far.
    """

    layer: Any
    found: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def forward(
        self, params: Any, xs: JaxArray, state0: Any, mask: JaxArray | None
    ) -> tuple[JaxArray, Any, HostTape]:
        """``(ys, state_T, tape)``."""
        if mask is not None and not Traits.of(self.layer).supports_mask:
            raise ContractError(
                f"{type(self.layer).__name__} was given a mask, expected none: supports_mask is"
                " False",
                item="mask",
            )
        tape = HostTape(params, xs, state0, mask)
        ys, state_T = self._call_back("forward", self._forward, tape)
        return ys, state_T, tape

    def backward(self, tape: HostTape, d_ys: JaxArray, d_state_T: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_xs, d_state0)``; an integer leaf of the state gets a ``float0``."""
        # JAX's cotangent of an integer leaf is a float0, which cannot be sent to the host; the
        # contract has zeros of the dtype of xs.
        d_state_T = jax.tree.map(
            lambda leaf, d: d if is_float(leaf) else jnp.zeros(leaf.shape, tape.xs.dtype),
            tape.state0,
            d_state_T,
        )
        d_params, d_xs, d_state0 = self._call_back("vjp", self._vjp, tape, d_ys, d_state_T)
        d_state0 = jax.tree.map(
            lambda leaf, d: d if is_float(leaf) else np.zeros(leaf.shape, jax.dtypes.float0),
            tape.state0,
            d_state0,
        )
        return d_params, d_xs, d_state0

    def _call_back(self, name: str, function: Any, *arguments: Any) -> Any:
        key = name, jax.tree.structure(arguments), *map(_signature, jax.tree.leaves(arguments))
        if key not in self.found:
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), arguments)
            self.found[key] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), function(*zeros)
            )

        def on_host(*arrays: Any) -> Any:
            return function(*jax.tree.map(np.asarray, arrays))

        return jax.pure_callback(on_host, self.found[key], *arguments, vmap_method="sequential")

    def _forward(self, tape: HostTape) -> tuple[Any, Any]:
        ys, state_T, _ = self._run(tape)
        ys = np.asarray(ys)
        T, B = tape.xs.shape[:2]
        if ys.ndim != 3 or ys.shape[:2] != (T, B):
            raise ContractError(
                f"ys.shape={ys.shape}, but should be (T, B, n_out) with T={T}, B={B} [forward"
                " returned ys]",
                method="forward",
                item="ys",
            )
        _require_precision(ys, tape.xs, "forward", "ys")
        return ys, _like(tape.state0, state_T, tape.xs, "forward", "state_T")

    def _vjp(self, tape: HostTape, d_ys: Any, d_state_T: Any) -> tuple[Any, Any, Any]:
        numpys_tape = self._run(tape)[2]
        with np.errstate(all="ignore"):
            d_params, d_xs, d_state0 = self.layer.vjp(tape.params, numpys_tape, d_ys, d_state_T)
        floats = jax.tree.map(
            lambda leaf: leaf if is_float(leaf) else np.zeros(leaf.shape, tape.xs.dtype),
            tape.state0,
        )
        return (
            _like(tape.params, d_params, tape.xs, "vjp", "d_params"),
            _like(tape.xs, d_xs, tape.xs, "vjp", "d_xs"),
            _like(floats, d_state0, tape.xs, "vjp", "d_state0"),
        )

    def _run(self, tape: HostTape) -> tuple[Any, Any, Any]:
        params, xs, state0, mask = tape
        with np.errstate(all="ignore"):
            if mask is None:
                return self.layer.forward(params, xs, state0)
            return self.layer.forward(params, xs, state0, mask=mask)


def _signature(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, str(leaf.dtype)


def _like(expected: Any, given: Any, xs: Any, method: str, item: str) -> Any:
    """``given`` in the structure of ``expected``, if it has its shapes."""
    if _keys(trees.structure(expected)) != _keys(trees.structure(given)):
        raise ContractError(
            f"{method} returned {item} as {trees.structure(given).describe()}, expected"
            f" {trees.structure(expected).describe()}",
            method=method,
            item=item,
        )

    def checked(path: str, wanted: Any, leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        if leaf.shape != wanted.shape:
            raise ContractError(
                f"{path}.shape={leaf.shape}, but should be {wanted.shape} [{method} returned"
                f" {item}]",
                method=method,
                item=path,
            )
        if is_float(wanted):
            _require_precision(leaf, xs, method, path)
        # A counter that NumPy makes int64 is int32 where JAX's 64-bit mode is off.
        return leaf.astype(wanted.dtype, copy=False)

    paths = trees.structure(expected)
    names = paths.unflatten([item + path for path in paths.paths])
    return trees.map_leaves(checked, names, expected, given)


def _keys(structure: trees.Structure) -> Any:
    """What two structures must share; the order of a dict's keys is free."""
    children = dict(zip(structure.keys, map(_keys, structure.children), strict=True))
    return structure.kind, structure.type, children


def _require_precision(array: Any, xs: Any, method: str, item: str) -> None:
    if array.dtype != xs.dtype:
        raise ContractError(
            f"{item}.dtype={array.dtype}, but should be that of xs, {xs.dtype} [{method} returned"
            f" {item}]; NumPy 2 promotes: write float(...) around a NumPy scalar",
            method=method,
            item=item,
        )
