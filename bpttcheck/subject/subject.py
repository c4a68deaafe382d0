"""What is under test: a cell or a layer, with all that belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import Layer, is_cell
from bpttcheck.errors import ContractError
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.validate import validate_subject

_MASKS = ("none", "lengths", "holes", "empty_rows")


@dataclass(frozen=True)
class Subject:
    """A cell or layer under test, and what belongs to this one subject.

    Args:
        target: the cell or layer.
        reference: what JAX differentiates instead of the cell's own ``step``: another cell, or a
            JAX function ``step(params, state, x) -> (state, y)``. A layer needs the cell it fuses.
        sizes: a Hypothesis strategy of ``(n_in, n_hidden)``, or the pairs themselves; None: the
            target's own ``sizes`` if it has one, else any.
        expected_failures: check name -> why it is expected to fail.
        name: what to call it; empty: its class, with the options that are not the default ones.
        lengths: the only T to be used; None: the target's own ``lengths`` if it has one, else any.
        batches: the only B to be used, in the same way.
        masks: the kinds of mask that it takes, out of ``"lengths"``, ``"holes"`` and
            ``"empty_rows"``, in the same way.

    Raises:
        ContractError: if the target is neither a cell nor a layer, or an option is malformed.
    """

    target: Any
    reference: Any = None
    sizes: Any = None
    expected_failures: Mapping[str, str] | None = field(default=None)
    name: str = ""
    lengths: Any = None
    batches: Any = None
    masks: Any = None

    def __post_init__(self) -> None:
        validate_subject(self.target)
        target = self.target
        if self.reference is None:
            object.__setattr__(self, "reference", getattr(target, "reference", None))
        if self.sizes is None:
            object.__setattr__(self, "sizes", _own_sizes(target))
        if not self.name:
            object.__setattr__(self, "name", _name(target))
        for trait in ("lengths", "batches"):
            given = getattr(self, trait)
            own = _whole_numbers(getattr(target, trait, None))
            object.__setattr__(self, trait, own if given is None else _require_whole(trait, given))
        object.__setattr__(self, "masks", self._mask_kinds())
        _validate_reference(self.reference)
        _validate_sizes(self.sizes)
        _validate_expected(self.expected_failures)

    @classmethod
    def of(cls, candidate: Any, **options: Any) -> Subject:
        """``candidate`` as a subject; options given here replace those that it carries."""
        changes = {key: value for key, value in options.items() if value is not None}
        if not isinstance(candidate, cls):
            return cls(candidate, **changes)
        return replace(candidate, **changes) if changes else candidate

    def _mask_kinds(self) -> tuple[str, ...]:
        if not getattr(self.target, "supports_mask", True):
            return ()
        found = getattr(self.target, "masks", None) if self.masks is None else self.masks
        if not isinstance(found, (tuple, list, set, frozenset)) or not set(found) <= set(_MASKS):
            return _MASKS
        return tuple(kind for kind in _MASKS if kind in found or kind == "none")

    @property
    def kind(self) -> str:
        """``"cell"`` or ``"layer"``."""
        return validate_subject(self.target)

    @property
    def layer(self) -> Layer:
        """The target as a whole-sequence layer."""
        return CellLayer(self.target) if self.kind == "cell" else self.target

    @property
    def supports_mask(self) -> bool:
        """True if it takes masks of some kind."""
        return len(self.masks) > 1

    @property
    def fixed_sizes(self) -> bool:
        """True if every new shape is dear (compiled kernels), so that few are used."""
        return bool(getattr(self.target, "fixed_sizes", False))

    @property
    def _judge(self) -> Any:
        """Whose forward pass, or declared surrogate, the backward pass is compared with."""
        return unfilled(self.target) if self.reference is None else self.reference

    @property
    def surrogate(self) -> str:
        """Why the backward pass is not the gradient of the forward pass, or ``""``: it is."""
        return str(getattr(self._judge, "surrogate", "") or "")

    @property
    def reference_sequence(self) -> Callable[..., Any] | None:
        """``sequence(engine, params, xs, state0, mask) -> (ys, state_T)``, or None."""
        sequence = getattr(self._judge, "sequence", None)
        if self.kind != "layer" or not callable(sequence):
            return None
        adapt: Callable[[Any], Any] = getattr(self.target, "to_reference", lambda params: params)
        return lambda engine, p, xs, s, mask: sequence(engine, adapt(p), xs, s, mask)

    @property
    def surrogate_step(self) -> Callable[..., Any] | None:
        """``surrogate_step(freeze, params, state, x) -> (state, y)``, or None."""
        found = getattr(self._judge, "surrogate_step", None)
        return found if self.kind == "cell" and callable(found) else None

    @property
    def surrogate_cell(self) -> Any:
        """The cell that has :attr:`surrogate_step`."""
        return self._judge

    @property
    def causal(self) -> bool:
        """False only for a layer that says that its outputs may depend on later inputs."""
        return bool(getattr(self.target, "causal", True))

    @property
    def splits_in_time(self) -> bool:
        """False only for a layer that says that two halves in a row are not the whole."""
        return bool(getattr(self.target, "splits_in_time", True))

    @property
    def exact_length(self) -> bool:
        """True if JAX must see the very T of the problem."""
        return bool(getattr(self.target, "exact_length", False))

    @property
    def domain(self) -> Mapping[str, Any]:
        """Where values must stay: a parameter's name, ``"x"`` or ``"state"`` to what is allowed.

        An interval ``(low, high)``, a function ``(rng, array) -> array``, or, for the state,
        ``"reached"``: only states that a sequence reaches.
        """
        found = getattr(self.target, "domain", None)
        return found if isinstance(found, Mapping) else {}

    @property
    def final_state_gradient(self) -> bool:
        """False if the code says that nothing may depend on its final state."""
        return getattr(self.target, "final_state_gradient", True) is not False

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Constants with which the hand-written code compares or clips, of either magnitude."""
        from bpttcheck.subject.source import float_constants

        return tuple(dict.fromkeys(abs(c) for c in float_constants(unfilled(self.target)) if c))

    @cached_property
    def size_constants(self) -> tuple[int, ...]:
        """Whole numbers in the hand-written code that may be sizes, such as that of a block."""
        from bpttcheck.subject.source import integer_constants

        return integer_constants(unfilled(self.target))

    @property
    def reference_step(self) -> tuple[str, Callable[..., Any]] | None:
        """``("numpy" | "jax", step(params, state, x) -> (state, y))``, or None if there is none."""
        adapt: Callable[[Any], Any] = getattr(self.target, "to_reference", lambda params: params)
        reference: Any = unfilled(self.target) if self.reference is None else self.reference
        step: Callable[..., Any]
        if is_cell(reference):
            # An adapted cell brings the JAX function that it stands for.
            own: Any = getattr(reference, "reference", None)
            kind, step = ("jax", own) if callable(own) else ("numpy", reference.step)
        elif self.reference is None:
            return None
        else:
            kind, step = "jax", reference
        return kind, lambda p, s, x: step(adapt(p), s, x)[:2]


def _whole_numbers(given: Any) -> tuple[int, ...] | None:
    """Sorted positive integers; None for anything else, which is then no trait."""
    if not isinstance(given, (tuple, list, range, set, frozenset)) or not given:
        return None
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given):
        return None
    return tuple(sorted(set(given)))


def _require_whole(name: str, given: Any) -> tuple[int, ...]:
    found = _whole_numbers(given)
    if found is None:
        raise ContractError(
            f"{name}={_short(given)}, but should be positive whole numbers, such as (1, 16, 300)",
            item=name,
        )
    return found


def _name(target: Any) -> str:
    own = getattr(target, "name", None)
    if isinstance(own, str) and own:
        return own
    if is_dataclass(target):
        told = [f for f in fields(target) if f.repr and getattr(target, f.name) != f.default]
        options = ", ".join(f"{f.name}={getattr(target, f.name)!r}" for f in told)
        text = f"{type(target).__name__}({options})"
    else:
        text = repr(target)
    plain = " object at 0x" in text or len(text) > 60 or "\n" in text
    return type(target).__name__ if plain else text


def _validate_reference(reference: Any) -> None:
    if reference is None or is_cell(reference) or callable(getattr(reference, "sequence", None)):
        return
    if isinstance(reference, type) or not callable(reference):
        raise ContractError(
            f"reference={_short(reference)}, but should be a cell instance or a JAX function "
            "step(params, state, x) -> (state, y)",
            item="reference",
        )


def _own_sizes(target: Any) -> Any:
    """The target's ``sizes`` if it is a strategy or pairs; else it means something else."""
    own = getattr(target, "sizes", None)
    try:
        _validate_sizes(own)
    except ContractError:
        return None
    return own


def _validate_sizes(sizes: Any) -> None:
    pairs = isinstance(sizes, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and _whole_numbers(pair) is not None and len(pair) == 2
        for pair in sizes
    )
    if sizes is not None and not hasattr(sizes, "example") and not (pairs and sizes):
        raise ContractError(
            f"sizes={_short(sizes)}, but should be pairs (n_in, n_hidden), or a Hypothesis "
            "strategy of them, such as st.tuples(st.integers(1, 4), st.sampled_from([2, 4]))",
            item="sizes",
        )


def _validate_expected(expected: Any) -> None:
    if expected is None:
        return
    fine = isinstance(expected, Mapping) and all(
        isinstance(k, str) and isinstance(v, str) and v for k, v in expected.items()
    )
    if not fine:
        raise ContractError(
            f"expected_failures={_short(expected)}, but should map check names to reasons, such as "
            '{"masking": "the kernel has no masks"}',
            item="expected_failures",
        )


def _short(value: Any) -> str:
    return f"{str(value)[:60]} (type={type(value).__name__})"
