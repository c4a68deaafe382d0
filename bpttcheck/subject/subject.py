"""What is under test: a cell or a layer, with the options that belong to it."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import CELL_METHODS, LAYER_METHODS, Layer, is_cell
from bpttcheck.errors import ContractError
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.user_code import SIGNATURES, guarded_inspection
from bpttcheck.subject.values import describe, is_a
from bpttcheck.traits import MASKS, Traits, counts, mask_kinds, pairs_or_strategy, trait


@dataclass(frozen=True)
class Subject:
    """A cell or layer under test, and the options of this subject.

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
        masks: the kinds of mask that it supports, from ``"lengths"``, ``"holes"`` and
            ``"empty_rows"``, in the same way.
        accept: gradient -> how far it may be off, relative to its largest entry, and why: for a
            small constant that the code adds on purpose, such as ``log(p + 1e-12)``. What is never
            needed is a failure.

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
    accept: Mapping[str, tuple[float, str]] | None = None
    traits: Traits = field(init=False, repr=False, compare=False)
    """The traits that the target declares."""

    def __post_init__(self) -> None:
        validate_subject(self.target)
        target = self.target
        own = Traits.of(target)
        object.__setattr__(self, "traits", own)
        for name in ("reference", "sizes"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(own, name))
        if not self.name:
            object.__setattr__(self, "name", own.name or _name(target))
        for name in ("lengths", "batches"):
            given = getattr(self, name)
            found = getattr(own, name) if given is None else _require_counts(name, given)
            object.__setattr__(self, name, found)
        object.__setattr__(self, "masks", self._mask_kinds())
        _validate_reference(self.reference)
        _validate_sizes(self.sizes)
        _validate_expected(self.expected_failures)
        _validate_accepted(self.accept)

    @classmethod
    def of(cls, candidate: Any, **options: Any) -> Subject:
        """``candidate`` as a subject; options given here replace those that it carries."""
        changes = {key: value for key, value in options.items() if value is not None}
        if not isinstance(candidate, cls):
            return cls(candidate, **changes)
        return replace(candidate, **changes) if changes else candidate

    def _mask_kinds(self) -> tuple[str, ...]:
        if not self.traits.supports_mask:
            return ()
        return self.traits.masks if self.masks is None else mask_kinds(self.masks) or MASKS

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
        """True if it supports any kind of mask."""
        return len(self.masks) > 1

    @property
    def _judge(self) -> Any:
        """The cell whose forward pass, or surrogate, the backward pass is compared with."""
        return unfilled(self.target) if self.reference is None else self.reference

    @cached_property
    def _judged_traits(self) -> Traits:
        return Traits.of(self._judge)

    @property
    def surrogate(self) -> str:
        """Why the backward pass is not the gradient of the forward pass, or ``""``: it is."""
        return self._judged_traits.surrogate

    @property
    def reference_sequence(self) -> Callable[..., Any] | None:
        """``sequence(engine, params, xs, state0, mask) -> (ys, state_T)``, or None."""
        sequence = self._judged_traits.sequence
        if self.kind != "layer" or sequence is None:
            return None
        adapt = self.traits.to_reference
        return lambda engine, p, xs, s, mask: sequence(engine, adapt(p), xs, s, mask)

    @cached_property
    def traced_whole(self) -> bool:
        """True if nothing but its own forward pass is there for JAX, loop over time and all."""
        if self.traits.signature is not None:
            return True
        other = self.reference_sequence is not None or self.reference_step is not None
        return self.kind == "layer" and not other and not self.traits.fixed_sizes

    @property
    def exact_length(self) -> bool:
        """True if a padded sequence is not the sequence."""
        return self.traits.exact_length or self.traits.fixed_sizes or self.traced_whole

    @property
    def surrogate_step(self) -> Callable[..., Any] | None:
        """``surrogate_step(freeze, params, state, x) -> (state, y)``, or None."""
        return self._judged_traits.surrogate_step if self.kind == "cell" else None

    @property
    def surrogate_cell(self) -> Any:
        """The cell that has :attr:`surrogate_step`."""
        return self._judge

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Constants with which the hand-written code compares or clips, of either magnitude."""
        from bpttcheck.subject.source import float_constants

        return tuple(dict.fromkeys(abs(c) for c in float_constants(unfilled(self.target)) if c))

    @cached_property
    def size_constants(self) -> tuple[int, ...]:
        """Integers in the hand-written code that may be sizes, such as block sizes."""
        from bpttcheck.subject.source import integer_constants

        return integer_constants(unfilled(self.target))

    @property
    def reference_step(self) -> tuple[str, Callable[..., Any]] | None:
        """``("numpy" | "jax", step(params, state, x) -> (state, y))``, or None if there is none."""
        adapt = self.traits.to_reference
        reference: Any = unfilled(self.target) if self.reference is None else self.reference
        step: Callable[..., Any]
        if is_cell(reference):
            # An adapted cell has the JAX function that it was made from.
            own = trait(reference, "reference")
            kind, step = ("jax", own) if callable(own) else ("numpy", reference.step)
        elif self.reference is None:
            return None
        else:
            kind, step = "jax", reference
        return kind, lambda p, s, x: step(adapt(p), s, x)[:2]


def _require_counts(name: str, given: Any) -> tuple[int, ...]:
    found = counts(given)
    if found is None:
        raise ContractError(
            f"{name}={_short(given)}, but should be positive integers, such as (1, 16, 300)",
            item=name,
        )
    return found


def _name(target: Any) -> str:
    if is_dataclass(target):
        changed = [f for f in fields(target) if f.repr and getattr(target, f.name) != f.default]
        options = ", ".join(f"{f.name}={getattr(target, f.name)!r}" for f in changed)
        text = f"{type(target).__name__}({options})"
    else:
        text = repr(target)
    plain = " object at 0x" in text or len(text) > 60 or "\n" in text
    return type(target).__name__ if plain else text


def _validate_reference(reference: Any) -> None:
    if reference is None or is_cell(reference) or trait(reference, "sequence") is not None:
        return
    if isinstance(reference, type) or not callable(reference):
        raise ContractError(
            f"reference={_short(reference)}, but should be a cell instance or a JAX function "
            "step(params, state, x) -> (state, y)",
            item="reference",
        )


def _validate_sizes(sizes: Any) -> None:
    if sizes is not None and pairs_or_strategy(sizes) is None:
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


def _validate_accepted(accept: Any) -> None:
    if accept is None:
        return
    fine = isinstance(accept, Mapping) and all(
        isinstance(name, str)
        and isinstance(pair, (tuple, list))
        and len(pair) == 2
        and isinstance(pair[0], (int, float))
        and 0 < pair[0] < 1
        and isinstance(pair[1], str)
        and pair[1]
        for name, pair in accept.items()
    )
    if not fine:
        raise ContractError(
            f"accept={_short(accept)}, but should map gradients to a relative error and a reason, "
            'such as {"dW": (1e-10, "log(p + 1e-12)")}',
            item="accept",
        )


def _short(value: Any) -> str:
    return f"{str(value)[:60]} (type={type(value).__name__})"


OTHER_NAMES = {
    "init": ("initialise", "initialize", "init_params", "init_parameters", "reset_parameters"),
    "initial_state": ("init_state", "zero_state", "init_hidden", "initial_hidden", "begin_state"),
    "step": ("forward_step", "step_forward", "forward", "cell", "__call__"),
    "step_vjp": ("backward", "vjp", "step_backward", "backward_step", "bwd", "step_grad", "grad"),
    "forward": ("fwd", "apply", "run", "unroll", "__call__"),
    "vjp": ("backward", "bwd", "forward_vjp", "grad", "backpropagate"),
}

_MISSING = object()


def validate_subject(candidate: object) -> Literal["cell", "layer"]:
    """Tell whether ``candidate`` is a cell or a layer; an object that is both is a layer.

    Args:
        candidate: the object that the user wants checked.

    Returns:
        ``"cell"`` or ``"layer"``.

    Raises:
        ContractError: it is neither; the message says which methods are missing or what to pass.
    """
    with guarded_inspection("", "subject"):
        return _validate_subject(candidate)


def _validate_subject(candidate: Any) -> Literal["cell", "layer"]:
    _reject_other_things(candidate)
    attributes = {name: _attribute(candidate, name) for name in (*CELL_METHODS, *LAYER_METHODS[2:])}
    kind = _likely_kind(attributes)
    wanted = CELL_METHODS if kind == "cell" else LAYER_METHODS
    missing = [name for name in wanted if attributes[name] is _MISSING]
    if missing:
        raise ContractError(
            _missing_message(candidate, kind, wanted, missing), method=missing[0], item="subject"
        )
    for name in wanted:
        _require_method(candidate, name, attributes[name])
    for name in ("initial_state_vjp",):
        optional = _attribute(candidate, name)
        if optional is not _MISSING and optional is not None:
            _require_method(candidate, name, optional)
    return kind


def _reject_other_things(candidate: Any) -> None:
    remedy = _what_to_pass(candidate)
    if remedy:
        raise ContractError(
            f"the subject is {describe(candidate)}, but should be a cell or a layer: {remedy}",
            item="subject",
        )


def _what_to_pass(candidate: Any) -> str:
    if is_a(candidate, type):
        return _instead_of_class(candidate)
    if is_a(candidate, types.ModuleType):
        return "pass an object with the methods of a cell, such as an instance of a class in it"
    if hasattr(type(candidate), "defvjp"):
        return "wrap it with bpttcheck.adapt.from_custom_vjp"
    if is_a(candidate, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return "wrap it with bpttcheck.adapt.from_callables"
    if is_a(candidate, str):
        return "pass the object itself; names are for the command line: bpttcheck verify NAME"
    if is_a(candidate, (list, tuple, dict, set)):
        return "pass one subject at a time"
    if type(candidate).__module__ in ("builtins", "numpy"):
        return f"a cell has the methods {_spoken(CELL_METHODS)}"
    return ""


def _instead_of_class(candidate: type) -> str:
    name = candidate.__name__
    if any(base.__module__.startswith("torch.autograd") for base in candidate.__mro__):
        return f"wrap it: bpttcheck.adapt.from_autograd_function({name})"
    return f"pass an instance: {name}()"


def _attribute(candidate: Any, name: str) -> Any:
    try:
        return getattr(candidate, name)
    except AttributeError:
        return _MISSING


def _likely_kind(attributes: dict[str, Any]) -> Literal["cell", "layer"]:
    def present(names: tuple[str, ...]) -> int:
        return sum(callable(attributes[name]) for name in names)

    as_layer, as_cell = present(LAYER_METHODS[2:]), present(CELL_METHODS[2:])
    return "layer" if as_layer == 2 or as_layer > as_cell else "cell"


def _require_method(candidate: Any, name: str, value: Any) -> None:
    if not callable(value):
        raise ContractError(
            f"{type(candidate).__name__}.{name} is {describe(value)}, but should be a method: "
            f"{SIGNATURES[name]}",
            method=name,
            item="subject",
        )


def _missing_message(candidate: Any, kind: str, wanted: tuple[str, ...], missing: list[str]) -> str:
    name = type(candidate).__name__
    said = f"{name} has no method {_spoken(missing)}; a {kind} has {_spoken(wanted)}"
    if any(base.__module__.split(".")[0] == "torch" for base in type(candidate).__mro__):
        return f"{said}: wrap a torch function with bpttcheck.adapt.from_autograd_function"
    others = [name for name in dir(candidate) if not name.startswith("_") and name not in wanted]
    near = {method: _near_miss(method, others) for method in missing}
    guesses = [f"is {other!r} meant to be {method!r}?" for method, other in near.items() if other]
    if guesses:
        return f"{said}: {' '.join(guesses)} Rename it to {SIGNATURES[missing[0]]}"
    return f"{said}: write {_spoken([SIGNATURES[method] for method in missing])}"


def _near_miss(method: str, names: list[str]) -> str | None:
    for other in OTHER_NAMES.get(method, ()):
        if other in names:
            return other
    folded = {name.replace("_", "").lower(): name for name in names}
    near = difflib.get_close_matches(method.replace("_", ""), folded, n=1, cutoff=0.7)
    if near:
        return folded[near[0]]
    words = set(method.split("_"))
    if len(words) == 1:
        return None
    return next((name for name in names if words <= set(name.split("_"))), None)


def _spoken(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
