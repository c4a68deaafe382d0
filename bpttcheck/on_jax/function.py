"""A cell or a layer as a JAX function whose backward pass is the hand-derived one.

A native form runs in compiled loops, forward and backward, without sums over time inside; so does
any cell whose code can be traced. Any other subject runs in NumPy through host callbacks.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import CELL_METHODS, LAYER_METHODS, is_cell, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.on_jax.form import JaxArray, JaxCell, is_float, require_form, require_sequence
from bpttcheck.on_jax.products import in_all_steps, is_few
from bpttcheck.on_jax.traced import FORMS, TracedLoops, forms_of
from bpttcheck.traits import trait

_FORMS = {
    "bpttcheck.cells.elman.Elman": "elman",
    "bpttcheck.cells.gru_reset_after.GRUResetAfter": "gru_reset_after",
    "bpttcheck.cells.gru_reset_before.GRUResetBefore": "gru_reset_before",
    "bpttcheck.cells.jordan.Jordan": "jordan",
    "bpttcheck.cells.lstm.LSTM": "lstm",
    "bpttcheck.cells.peephole_lstm.PeepholeLSTM": "lstm",
}

# Built-in layers that compute the function of the cell in one of their attributes.
_CELL_OF = {
    "bpttcheck.bptt.layer.CellLayer": "cell",
    "bpttcheck.bptt.fused.elman.FusedElman": "reference",
    "bpttcheck.bptt.fused.gru_reset_after.FusedGRUResetAfter": "reference",
    "bpttcheck.bptt.fused.gru_reset_before.FusedGRUResetBefore": "reference",
    "bpttcheck.bptt.fused.lstm.FusedLSTM": "reference",
}


def form_of(subject: Any) -> JaxCell | None:
    """The native form of a cell or a layer, or None.

    The type must match exactly: a subclass may have overridden methods.
    """
    attribute = _CELL_OF.get(_name(subject))
    cell = subject if attribute is None else getattr(subject, attribute)
    home = _FORMS.get(_name(cell))
    if home is None:
        return None
    return importlib.import_module(f"bpttcheck.on_jax.{home}").form(cell)


def _name(subject: Any) -> str:
    return f"{type(subject).__module__}.{type(subject).__qualname__}"


def layer(subject: Any, *, form: str | None = None) -> Callable[..., tuple[Any, Any]]:
    """The JAX function ``f(params, xs, state0, mask=None) -> (ys, state_T)`` of a cell or a layer.

    ``jax.grad`` of it runs a hand-derived backward pass, under ``jax.jit``, ``jax.vmap`` and
    ``lax.scan`` as well. The built-in cells, and the built-in layers that fuse them, have a form
    in ``jax.numpy``. The ``step`` and ``step_vjp`` of any other cell are traced as they are, NumPy
    unmodified, and compiled: each form of the two loops is compared with the cell in NumPy, values
    and gradients, and the fastest for the shapes at hand is measured once
    (:class:`bpttcheck.on_jax.traced.TracedLoops`). What cannot be traced, and a layer, is called
    back on the host, in NumPy.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from bpttcheck.cells import LSTM
    >>> cell, f = LSTM(), layer(LSTM())
    >>> params = cell.init(np.random.default_rng(0), n_in=2, n_hidden=3)
    >>> state0 = cell.initial_state(params, batch_size=4)
    >>> d = jax.grad(lambda params: jnp.sum(f(params, jnp.ones((5, 4, 2)), state0)[0]))(params)
    >>> d["W_hh"].shape
    (12, 3)

    What ``f`` takes, all of one dtype, float32, or float64 where JAX's 64-bit mode is on:

    - ``params``: the dict that the subject's ``init`` draws;
    - ``xs (T, B, n_in)``;
    - ``state0``: the state before the first step; a native form has no default for it;
    - ``mask (T, B)``: bool, true where the step is real. A masked step carries the state through,
      outputs zero and sends no gradient anywhere, whatever stands in the padding.

    There is no forward-mode derivative of ``f`` (``jax.jvp``, ``jax.jacfwd``): JAX has none for a
    ``custom_vjp``.

    Args:
        subject: a :class:`bpttcheck.Cell` or a :class:`bpttcheck.Layer`.
        form: None: the fastest. ``"host"``: callbacks. ``"in the loop"``, ``"deferred"``,
            ``"deferred, chunks recomputed"``, ``"hoisted"``, ``"hoisted, in chunks"``,
            ``"hoisted, recomputed"`` or ``"hoisted, unrolled"``: this form of the traced loops
            (:class:`bpttcheck.on_jax.traced.Form`).

    Returns:
        ``f``. It raises ``ContractError`` if a shape or a dtype is wrong, or if a gradient comes
        back from the host in another shape than what it is the gradient of.

    Raises:
        ContractError: ``subject`` is neither a cell nor a layer, or runs JAX itself; or ``form``
            is none that it has, for the reason given.

    Warns:
        HostCallbackWarning: ``subject`` cannot be traced, for the reason given, or is a layer.
    """
    _require_subject(subject)
    native = form_of(subject) if form is None else None
    if native is not None:
        sequence = with_rule(NativeLoops(native))
        chosen: Callable[..., Any] = lambda *_: sequence  # noqa: E731
    else:
        chosen = _foreign(subject, form)

    def f(params: Any, xs: Any, state0: Any, mask: Any = None) -> tuple[Any, Any]:
        params, xs, state0, mask = require_sequence(params, xs, state0, mask)
        if native is not None:
            require_form(native, params, xs, state0)
        return chosen(params, xs, state0, mask)(params, xs, state0, mask)

    f.__name__ = f.__qualname__ = f"{type(subject).__name__}_on_jax"
    return f


def _foreign(subject: Any, form: str | None) -> Callable[..., Callable[..., Any]]:
    """From arguments to the function that runs a subject without a native form."""
    reason = "" if is_cell(subject) else "a layer is not traced, a cell is"
    if form in (None, *FORMS) and is_cell(subject):
        forms, reason = forms_of(subject, with_rule, form or "in the loop")
        if forms is not None:
            return forms.function if form is None else lambda *_: forms.functions[form]
    if form not in (None, "host"):
        raise ContractError(
            f"form={form!r}, expected None, 'host' or, where the cell has it, one of"
            f" {', '.join(FORMS)}" + (f" ({reason})" if reason else ""),
            item="form",
        )
    if form is None:
        warn_of_the_cost(subject, reason)
    loops = HostLoops(CellLayer(subject) if is_cell(subject) else subject)
    sequence = with_rule(loops)
    return lambda *_: sequence


def with_rule(loops: NativeLoops | HostLoops | TracedLoops) -> Callable[..., tuple[Any, Any]]:
    """``f(params, xs, state0, mask) -> (ys, state_T)``, differentiated by ``loops.backward``."""

    @jax.custom_vjp
    def sequence(params: Any, xs: Any, state0: Any, mask: Any) -> tuple[Any, Any]:
        ys, state_T, _ = loops.forward(params, xs, state0, mask)
        return ys, state_T

    def forward(params: Any, xs: Any, state0: Any, mask: Any) -> tuple[Any, Any]:
        ys, state_T, tape = loops.forward(params, xs, state0, mask)
        return (ys, state_T), tape

    def backward(tape: Any, cotangents: Any) -> tuple[Any, ...]:
        return *loops.backward(tape, *cotangents), None

    sequence.defvjp(forward, backward)
    return sequence


def _require_subject(subject: Any) -> None:
    if isinstance(subject, type) or not (is_cell(subject) or is_layer(subject)):
        hint = "; give an instance" if isinstance(subject, type) else ""
        raise ContractError(
            f"subject={subject!r} (type={type(subject).__name__}) is neither a cell with"
            f" {', '.join(CELL_METHODS)} nor a layer with {', '.join(LAYER_METHODS)}{hint}",
            item="subject",
        )
    if getattr(subject, "source", None) == "from_custom_vjp":
        raise ContractError(
            f"subject={subject!r} runs JAX itself, expected NumPy: JAX inside a callback of JAX can"
            " wait for itself forever; call the function that was given to from_custom_vjp",
            item="subject",
        )


class Tape(NamedTuple):
    """The residuals of the forward pass for the backward pass."""

    params: Any
    xs: JaxArray
    state0: Any
    mask: JaxArray | None
    memories: JaxArray
    kept: Any


@dataclass(frozen=True)
class NativeLoops:
    """A form over a whole sequence, in two scans and no automatic differentiation.

    Forward, for ``t = 0 .. T-1``::

        state[t+1], kept[t] = step(weights, state[t], xs[t])     rows with mask[t] true
        state[t+1]          = state[t]                           rows with mask[t] false
        ys[t]               = memory(state[t+1]), or 0 where mask[t] is false

    Backward, for ``t = T-1 .. 0`` from ``d_state[T] = d_state_T``::

        d_state[t], deferred[t] = step_vjp(params, kept[t], d_state[t+1], d_ys[t])
        d_state[t], deferred[t] = d_state[t+1], 0                rows with mask[t] false

    and after the loop ``d_params, d_xs = accumulate(xs, memories, kept, deferred)``. The transpose
    of ``lax.scan`` adds into every ``d_params`` at every step; here each is one product.

    ``step`` is in two parts, of which the first, ``project``, needs no state. With few rows it is
    done for all steps at once: a product with few rows costs what reading the weights costs, and
    then they are read once instead of at every step. With many rows it stays inside the loop: to
    hoist it takes one more array of all the pre-activations, and on a CPU that memory costs more
    than the larger product saves.

    Args:
        form: the equations of one step.
    """

    form: JaxCell

    def forward(
        self, params: Any, xs: JaxArray, state0: Any, mask: JaxArray | None
    ) -> tuple[JaxArray, Any, Tape]:
        """``(ys, state_T, tape)``."""
        form = self.form
        if mask is not None:
            # Zero times NaN is NaN: padding must not reach a product.
            xs = jnp.where(mask[..., None], xs, 0)
        weights, few = form.weights(params), is_few(form.memory(state0))

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            given, real = inputs
            new, kept = form.step(weights, state, given if few else form.project(weights, given))
            new = _where(real, new, state)
            return new, (form.memory(new), kept)

        given = in_all_steps(lambda x: form.project(weights, x), xs) if few else xs
        state_T, (memories, kept) = lax.scan(step, state0, (given, mask))
        ys = memories if mask is None else jnp.where(mask[..., None], memories, 0)
        return ys, state_T, Tape(params, xs, state0, mask, memories, kept)

    def backward(self, tape: Tape, d_ys: JaxArray, d_state_T: Any) -> tuple[Any, JaxArray, Any]:
        """``(d_params, d_xs, d_state0)``."""
        form, params = self.form, tape.params
        before = _shifted(form.memory(tape.state0), tape.memories)

        def step(d_state: Any, inputs: Any) -> tuple[Any, Any]:
            memory, kept, d_y, real = inputs
            d_previous, deferred = form.step_vjp(params, memory, kept, d_state, d_y)
            zeros = jax.tree.map(jnp.zeros_like, deferred)
            return _where(real, d_previous, d_state), _where(real, deferred, zeros)

        inputs = ((before, tape.memories), tape.kept, d_ys, tape.mask)
        d_state0, deferred = lax.scan(step, d_state_T, inputs, reverse=True)
        d_params, d_xs = form.accumulate(params, tape.xs, before, tape.kept, deferred)
        return d_params, d_xs, d_state0


def _where(real: JaxArray | None, new: Any, old: Any) -> Any:
    if real is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(real[:, None], n, o), new, old)


def _shifted(first: JaxArray, memories: JaxArray) -> JaxArray:
    """The memory before each step; a sequence of no steps has none."""
    if memories.shape[0] == 0:
        return memories
    return jnp.concatenate([first[None], memories[:-1]])


class HostCallbackWarning(UserWarning):
    """A subject cannot be compiled and is called back on the host."""


def warn_of_the_cost(subject: Any, reason: str) -> None:
    """Warn once about the cost of a host callback."""
    warnings.warn(
        f"{type(subject).__name__} has no form in JAX ({reason}). It runs in NumPy on the host:"
        " nothing is compiled, the backward pass runs the forward pass again, arrays are copied"
        " from and to the device, and jax.vmap runs its batch one by one. To silence:"
        " warnings.simplefilter('ignore', bpttcheck.on_jax.HostCallbackWarning)",
        HostCallbackWarning,
        stacklevel=4,
    )


class HostTape(NamedTuple):
    """The arguments: NumPy's tape may hold anything, so JAX cannot carry it."""

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
        if mask is not None and not trait(self.layer, "supports_mask"):
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
    """The part of a structure that must match; the order of a dict's keys is free."""
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
