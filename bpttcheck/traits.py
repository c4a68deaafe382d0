"""The optional attributes by which a cell or a layer declares its properties.

Every trait is an optional attribute of the class or of the instance. ``docs/reference/traits.md``
documents them; a test compares the two. An attribute that has the name of a trait and another type
is not a trait: it is ignored, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bpttcheck.signature import Signature

MASKS = ("none", "lengths", "holes", "empty_rows")
"""The kinds of mask, of which the first is none."""


def _identity(params: Any) -> Any:
    return params


@dataclass(frozen=True)
class Traits:
    """The traits of one object, with the defaults of those that it does not have.

    What it accepts:

    Args:
        sizes: pairs ``(n_in, n_hidden)`` or a Hypothesis strategy of them; None: any.
        lengths: the only T, sorted; None: any.
        batches: the only B, sorted; None: any.
        supports_mask: False: it has no masks.
        masks: the kinds of mask that it supports.
        contiguous: it accepts C-contiguous arrays only.
        fixed_sizes: every new shape is expensive, as for compiled kernels: few are used.
        domain: a parameter's name, ``"x"`` or ``"state"`` to the values allowed.

    What it promises:

    Args:
        causal: no output depends on later inputs.
        splits_in_time: running two halves in sequence gives the whole.
        exact_length: T itself matters, masked steps included.
        deterministic: equal bits in every call.
        final_state_gradient: False: nothing may depend on the final state.

    What it is compared with:

    Args:
        reference: what JAX differentiates instead.
        to_reference: from its parameters to those of the reference.
        sequence: ``sequence(engine, params, xs, state0, mask) -> (ys, state_T)``.
        torch_reference: ``torch_reference(tensors by input) -> [output, ...]``, of a function.
        surrogate: what the backward pass is the gradient of, if not of the forward pass.
        surrogate_step: ``surrogate_step(freeze, params, state, x) -> (state, y)``.
        full: the layer with the full gradient that the surrogate approximates.
        adjoints: ``adjoints(params, tape, d_ys, d_state_T)``: the adjoint of every state.
        initial_state_vjp: ``initial_state_vjp(params, d_state0)``.
        step_jvp: ``step_jvp(params, state, x, v_params, v_state, v_x) -> (v_new_state, v_y)``.
        jvp: ``jvp(params, xs, state0, v_params, v_xs, v_state0[, mask]) -> (v_ys, v_state_T)``.
        jax_reference: ``jax_reference(arrays by input) -> [output, ...]``, of a function.
        adapter_notes: ``adapter_notes() -> texts``: what the report is to say of it.
        name: its name in reports.
        signature: the inputs and outputs of what is not a layer but a function of any form.
        ignored: attributes with the name of a trait and another type.
    """

    sizes: Any = None
    lengths: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    supports_mask: bool = True
    masks: tuple[str, ...] = MASKS
    contiguous: bool = False
    fixed_sizes: bool = False
    domain: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = True
    splits_in_time: bool = True
    exact_length: bool = False
    deterministic: bool = False
    final_state_gradient: bool = True
    reference: Any = None
    to_reference: Callable[[Any], Any] = _identity
    sequence: Callable[..., Any] | None = None
    torch_reference: Callable[..., Any] | None = None
    jax_reference: Callable[..., Any] | None = None
    surrogate: str = ""
    surrogate_step: Callable[..., Any] | None = None
    full: Any = None
    adjoints: Callable[..., Any] | None = None
    initial_state_vjp: Callable[..., Any] | None = None
    step_jvp: Callable[..., Any] | None = None
    jvp: Callable[..., Any] | None = None
    adapter_notes: Callable[[], tuple[str, ...]] | None = None
    name: str = ""
    signature: Any = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: Any) -> Traits:
        """The traits of a cell or a layer."""
        found: dict[str, Any] = {}
        ignored: list[str] = []
        for name in TRAITS:
            value = getattr(target, name, None)
            if value is None:
                continue
            read = _READERS[name](value)
            if read is None:
                ignored.append(name)
            else:
                found[name] = read
        return cls(**found, ignored=tuple(ignored))


def trait(target: Any, name: str) -> Any:
    """One trait alone, or its default.

    Composed layers ask their parts in this way: if each trait asked for all traits of each part,
    the time would grow exponentially with the depth.
    """
    value = getattr(target, name, None)
    read = None if value is None else _READERS[name](value)
    return getattr(_PLAIN, name) if read is None else read


def counts(given: Any) -> tuple[int, ...] | None:
    """Sorted positive integers; None for anything else."""
    if not isinstance(given, (tuple, list, range, set, frozenset)) or not given:
        return None
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given):
        return None
    return tuple(sorted(set(given)))


def pairs_or_strategy(given: Any) -> Any:
    """Pairs ``(n_in, n_hidden)`` or a Hypothesis strategy; None for anything else."""
    if hasattr(given, "example"):
        return given
    fine = isinstance(given, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and counts(pair) is not None and len(pair) == 2
        for pair in given
    )
    return given if fine and given else None


def mask_kinds(given: Any) -> tuple[str, ...] | None:
    """The kinds of mask out of :data:`MASKS`; None for anything else."""
    if not isinstance(given, (tuple, list, set, frozenset)):
        return None
    if not all(isinstance(kind, str) and kind in MASKS for kind in given):
        return None
    return tuple(kind for kind in MASKS if kind in given or kind == "none")


def _flag(given: Any) -> bool | None:
    return bool(given) if isinstance(given, (bool, np.bool_)) else None


def _text(given: Any) -> str | None:
    return given if isinstance(given, str) else None


def _function(given: Any) -> Any:
    return given if callable(given) else None


def _anything(given: Any) -> Any:
    return given


_READERS: dict[str, Callable[[Any], Any]] = {
    "sizes": pairs_or_strategy,
    "lengths": counts,
    "batches": counts,
    "masks": mask_kinds,
    "domain": lambda given: given if isinstance(given, Mapping) else None,
    "reference": _anything,
    "full": _anything,
    "surrogate": _text,
    "name": _text,
    "signature": lambda given: given if isinstance(given, Signature) else None,
    **dict.fromkeys(
        ("to_reference", "sequence", "torch_reference", "jax_reference", "surrogate_step",
         "adjoints", "initial_state_vjp", "step_jvp", "jvp", "adapter_notes"), _function,
    ),
    **dict.fromkeys(
        ("supports_mask", "contiguous", "fixed_sizes", "causal", "splits_in_time", "exact_length",
         "deterministic", "final_state_gradient"), _flag,
    ),
}  # fmt: skip

_WORDS: dict[Callable[[Any], Any], str] = {
    pairs_or_strategy: "pairs (n_in, n_hidden), or a Hypothesis strategy of them",
    counts: "whole numbers of at least 1",
    mask_kinds: f"some of {', '.join(MASKS[1:])}",
    _function: "a function",
    _flag: "True or False",
    _text: "a text",
}


def expected(name: str) -> str:
    """What the trait of a name is, in words."""
    return _WORDS.get(_READERS[name], "of another type")


TRAITS = tuple(one.name for one in fields(Traits) if one.name != "ignored")
"""The names of all traits."""

_PLAIN = Traits()
