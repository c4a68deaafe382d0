"""A forward and a backward pass of any signature, in the form in which layers are judged.

Its inputs become the parameters of a layer of one step that has neither an input nor a state, and
its outputs, one after another, the one row that this layer returns. So whatever judges layers
(oracles, noise, conduct, diagnoses) judges functions, and nobody's gradient has to be invented: an
input for which the backward pass returns nothing is not checked, and the report names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from bpttcheck.adapt.received import Available, is_cache, keyword_only, parameters
from bpttcheck.adapt.returned import match, opened
from bpttcheck.contract import Array
from bpttcheck.errors import ContractError
from bpttcheck.signature import EACH, Entry, Signature

Outside = Callable[[Mapping[str, Any]], AbstractContextManager[None]]
"""Puts values where the code finds those that it is not handed, for as long as it runs."""


def _nothing(values: Mapping[str, Any]) -> AbstractContextManager[None]:
    return nullcontext()


_SHAPES_KEPT = 256


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass leaves for the backward pass."""

    sizes: Mapping[str, int]
    params: Mapping[str, Any]
    arguments: Sequence[Any]
    outputs: Mapping[str, Any]
    extras: Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Function:
    """A function and its hand-written backward pass, as a layer.

    Args:
        name: how reports call it.
        signature: the inputs and outputs.
        forward_function: takes the inputs in order; returns the outputs, and a cache if there is
            one.
        backward_function: takes cotangents, the cache, or inputs and outputs by name; None if
            ``forward_function`` returns the gradients of its one output, a loss, as well.
        grads: what the backward pass returns, name by name; None: it is found out.
        receives: what the backward pass takes, name by name; None: its own parameters tell.
        returns: what a function returns that returns its gradients too, name by name.
        outside: puts inputs where the code finds those that it is not handed.
        held: names of the inputs that are put there and not handed in.
        points: inputs at which it is judged, leaf by leaf.
        only_points: whether it is judged there alone.
        domain: input -> the values allowed.
        contiguous, deterministic: see the traits of these names.
        methods: what reports call the two passes.
    """

    name: str
    signature: Signature
    forward_function: Callable[..., Any]
    backward_function: Callable[..., Any] | None
    grads: tuple[str, ...] | None = None
    receives: tuple[str, ...] | None = None
    returns: tuple[str, ...] | None = None
    outside: Outside = _nothing
    held: frozenset[str] = frozenset()
    points: tuple[Mapping[str, Any], ...] = ()
    only_points: bool = False
    domain: Mapping[str, Any] = field(default_factory=dict)
    contiguous: bool = False
    deterministic: bool = False
    methods: tuple[str, str] = ("forward", "vjp")
    supports_mask = False
    causal = False
    splits_in_time = False
    exact_length = True

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the floats of its points."""
        found = {str(v.dtype) for p in self.points for v in p.values() if v.dtype.kind == "f"}
        return tuple(d for d in ("float64", "float32") if d in found) or ("float64",)

    def init(self, rng: Any, n_in: int, n_hidden: int) -> dict[str, Array]:
        """Not asked for: a function's inputs are drawn by its signature."""
        raise NotImplementedError

    def initial_state(self, params: Any, batch_size: int) -> tuple[()]:
        """It has no state of its own."""
        return ()

    def sequence(
        self, engine: Any, params: Any, xs: Any, state0: Any, mask: Any
    ) -> tuple[Any, Any]:
        """The forward pass, to be traced as a whole: in float64, whatever its buffers are."""
        row, state, _ = self.forward(params, xs, state0)
        dtype = next(v.dtype for v in params.values() if _kind(v) == "f")
        return row if row.dtype == dtype else row.astype(dtype), state

    def forward(
        self, params: Mapping[str, Any], xs: Any, state0: Any, mask: Any = None
    ) -> tuple[Any, tuple[()], ForwardPass]:
        """``(outputs, (), tape)``, with all outputs in one row ``(1, 1, M)``."""
        sizes = self.letters(params)
        arguments = self.signature.build(params, sizes)
        by_name = {item.name: a for item, a in zip(self.signature.inputs, arguments, strict=True)
                   if item.name not in self.held}  # fmt: skip
        named = {name: by_name.pop(name) for name in keyword_only(self.forward_function)
                 if name in by_name}  # fmt: skip
        with self.outside(self._held(arguments)):
            result = self.forward_function(*by_name.values(), **named)
        outputs, extras = self._split(result, sizes)
        flat = [np.reshape(value, (-1,)) for value in outputs.values()]
        row = np.reshape(np.concatenate(flat) if len(flat) > 1 else flat[0], (1, 1, -1))
        row = _no_wider(row, next(v for v in params.values() if _kind(v) == "f"))
        return row, (), ForwardPass(sizes, params, arguments, outputs, extras)

    def vjp(
        self, params: Mapping[str, Any], tape: ForwardPass, d_ys: Any, d_state_T: Any
    ) -> tuple[dict[str, Any], Any, tuple[()]]:
        """``(gradient by input, d_xs, ())``: None where the backward pass returns nothing."""
        found, _ = self.gradients(tape, d_ys)
        nothing = np.zeros((1, 1, 0), np.asarray(d_ys).dtype)
        return {n: _no_wider(found.get(n), value) for n, value in params.items()}, nothing, ()

    def gradients(self, tape: ForwardPass, d_ys: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The gradient of each input, and what its author calls it."""
        cotangents = self.unpacked(d_ys, tape)
        if self.backward_function is None:
            assert callable(self.forward_function)  # its lines are those of the backward pass
            factor = next(iter(cotangents.values()))
            found, called = self._matched(tape.extras["gradients"], tape.sizes, self.grads)
            return {name: np.asarray(g) * factor for name, g in found.items()}, called
        inputs = [item.name for item in self.signature.inputs]
        available = Available(
            self.methods[1],
            self._structured(cotangents, tape.sizes),
            {name: _unshared(one) for name, one in tape.extras.items()},
            dict(zip(inputs, tape.arguments, strict=True)),
            self._structured(tape.outputs, tape.sizes),
        )
        call = available.call(self.backward_function, self.receives)
        with self.outside(self._held(tape.arguments)):
            result = self.backward_function(*call.positions, **call.keywords)
        found, called = self._matched(result, tape.sizes, self.grads)
        if call.factor is not None:
            found = {name: np.asarray(g) * call.factor for name, g in found.items()}
        return found, called

    def unpacked(self, row: Any, tape: ForwardPass) -> dict[str, Any]:
        """The row ``(1, 1, M)`` of cotangents, output by output."""
        flat, at = np.reshape(row, (-1,)), 0
        found: dict[str, Any] = {}
        for name, value in tape.outputs.items():
            size = prod(np.shape(value))
            found[name] = np.reshape(flat[at : at + size], np.shape(value))
            at += size
        return found

    def _structured(self, leaves: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """What belongs to the outputs, leaf by leaf, in the structure that these have."""
        built = self.signature.build_outputs(leaves, sizes)
        heads = dict.fromkeys(name.partition(".")[0] for name in leaves)
        return {name: built[name] if name in built else leaves[name] for name in heads}

    def letters(self, params: Mapping[str, Any]) -> dict[str, int]:
        """The letters of given inputs: worked out once for equal shapes."""
        shapes = {name: np.shape(value) for name, value in params.items()}
        key = tuple(shapes.items())
        if key not in self._known_letters:
            if len(self._known_letters) >= _SHAPES_KEPT:
                self._known_letters.clear()
            found = letters_of(self.signature, shapes)
            sizes = [size for leaf in self.signature.results for size in leaf.axes]
            unknown = dict.fromkeys(x for size in sizes for x in size.letters if x not in found)
            if unknown:
                raise ContractError(
                    f"{', '.join(unknown)} cannot be told from the shapes of the inputs of "
                    f"{self.signature}; write one letter for what has one length",
                    item="signature",
                )
            self._known_letters[key] = found
        return dict(self._known_letters[key])

    @cached_property
    def _known_letters(self) -> dict[tuple[tuple[str, tuple[int, ...]], ...], dict[str, int]]:
        return {}

    def inputs(self, sizes: Mapping[str, int]) -> dict[str, dict[str, tuple[int, ...]]]:
        """Input -> its float leaves with their shapes."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, leaf in self.signature.expanded(sizes):
            if leaf.kind == "float":
                found.setdefault(name.partition(".")[0], {})[name] = leaf.shape(sizes)
        return found

    def _matched(
        self, result: Any, sizes: Mapping[str, int], grads: Sequence[str] | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        return match(result, self.inputs(sizes), grads, self.methods[1])

    def _held(self, arguments: Sequence[Any]) -> dict[str, Any]:
        pairs = zip(self.signature.inputs, arguments, strict=True)
        return {item.name: value for item, value in pairs if item.name in self.held}

    def outputs_of(self, result: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
        """The outputs that are compared, leaf by leaf, out of what the forward pass returned."""
        return self._split(result, sizes)[0]

    def _split(
        self, result: Any, sizes: Mapping[str, int]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The outputs that are compared, and what else the forward pass returned, by name."""
        if self.backward_function is None:
            return self._loss(result)
        items = self.signature.outputs
        if not items:
            return self._found_out(result)
        rest: list[Any] = []
        if len(items) == 1 and _is_whole(items[0], result):
            parts = [result]
        elif isinstance(result, Mapping):
            parts = [result.get(item.name) for item in items]
            rest = [result]
        else:
            parts = list(result) if isinstance(result, (tuple, list)) else [result]
            parts, rest = parts[: len(items)], parts[len(items) :]
        if len(parts) < len(items):
            raise ContractError(
                f"{self.methods[0]} returned {len(parts)} things, but the signature names "
                f"{len(items)} outputs: {', '.join(item.name for item in items)}",
                method=self.methods[0],
            )
        outputs: dict[str, Any] = {}
        extras: dict[str, Any] = {}
        for item, part in zip(items, parts, strict=True):
            if item.leaf is not None and item.leaf.kind == "opaque":
                extras[item.name] = part
            else:
                self._take_output(item, part, sizes, outputs)
        if rest:
            extras["cache"] = rest[0] if len(rest) == 1 else tuple(rest)
        return outputs, extras

    def _take_output(
        self, item: Entry, value: Any, sizes: Mapping[str, int], outputs: dict[str, Any]
    ) -> None:
        if item.leaf is None:
            inner = value.values() if isinstance(value, Mapping) else value
            alike = item.parts if item.times is None else item.parts * item.times.at(sizes)
            for number, (part, one) in enumerate(zip(alike, inner, strict=True)):
                named: dict[str, Any] = {}
                self._take_output(part, one, sizes, named)
                outputs |= {name.replace(EACH, str(number), 1): v for name, v in named.items()}
            return
        wanted = item.leaf.shape(sizes)
        if np.shape(value) != wanted:
            raise ContractError(
                f"{self.methods[0]} returned {item.leaf.name} of shape {np.shape(value)}, but the "
                f"signature says {item.leaf} = {wanted}",
                method=self.methods[0],
                item=item.leaf.name,
            )
        if item.leaf.kind == "float":
            outputs[item.leaf.name] = value

    def _loss(self, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of a function that returns its loss and the gradients."""
        if isinstance(result, Mapping):
            key = next(
                (k for k in result if str(k).lower() in ("loss", "cost", "value", "l")), None
            )
            parts: list[Any] = [] if key is None else [result[key]]
            rest: Any = {k: v for k, v in result.items() if k != key}
        else:
            parts = list(result) if isinstance(result, (tuple, list)) else [result]
            names = self.returns or ("loss", *["?"] * (len(parts) - 1))
            if len(names) != len(parts) and len(names) == len(opened(parts)):
                parts = opened(parts)  # a loss and a tuple of gradients
            if len(names) != len(parts):
                raise ContractError(
                    f"{self.methods[0]} returned {len(parts)} things, but `returns` names "
                    f"{len(names)}: {', '.join(names)}",
                    method=self.methods[0],
                    item="returns",
                )
            at = names.index("loss")
            rest = parts[:at] + parts[at + 1 :]
            parts = [parts[at]]
        if not parts or np.shape(parts[0]) not in ((), (1,), (1, 1)):
            given = "nothing" if not parts else f"an array of shape {np.shape(parts[0])}"
            raise ContractError(
                f"{self.methods[0]} returned {given} as its loss, but should return a number; say "
                "where it is: returns='loss, dW, ...'",
                method=self.methods[0],
                item="loss",
            )
        return {"loss": parts[0]}, {"gradients": rest}

    def _found_out(self, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs that no signature names: the arrays, but for a cache at the end."""
        parts = list(result) if isinstance(result, tuple) else [result]
        extras: dict[str, Any] = {}
        if len(parts) > 1 and (not _is_number(parts[-1]) or self._takes_cache()):
            extras["cache"] = parts.pop()
        odd = [part for part in parts if not _is_number(part)]
        if odd:
            raise ContractError(
                f"{self.methods[0]} returned {type(odd[0]).__name__} where an output was expected; "
                "say what it returns: '... -> h: N T H, cache'",
                method=self.methods[0],
                item="signature",
            )
        names = ["out"] if len(parts) == 1 else [f"out{i}" for i in range(len(parts))]
        return dict(zip(names, parts, strict=True)), extras

    def _takes_cache(self) -> bool:
        assert self.backward_function is not None
        return any(is_cache(name) for name in parameters(self.backward_function)[0])

    def __repr__(self) -> str:
        return f"<function {self.name!r}: {self.signature}>"


def letters_of(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The letters, from the shapes of the input leaves by name.

    Raises:
        ContractError: the shapes do not fit the signature.
    """
    found: dict[str, int] = {}
    pairs = [(name, leaf, shape) for name, shape in shapes.items()
             for leaf in signature.leaves if _same_leaf(name, leaf.name)]  # fmt: skip
    for name, leaf, shape in pairs:
        if len(shape) != len(leaf.axes):
            raise ContractError(
                f"{name} has the shape {shape}, but the signature says {leaf}", item=name
            )
    for _ in range(3):  # ``D+H`` is known once one of the two is
        for name, leaf, shape in pairs:
            for size, length in zip(leaf.axes, shape, strict=True):
                unknown = [(f, letter) for f, letter in size.terms if letter not in found]
                if len(unknown) == 1:
                    factor, letter = unknown[0]
                    known = size.number + sum(f * found[x] for f, x in size.terms if x in found)
                    if (length - known) % factor:
                        raise ContractError(
                            f"{name} has the shape {shape}, but the signature says {leaf}",
                            item=name,
                        )
                    found[letter] = (length - known) // factor
    for item in signature.inputs:
        if item.times is not None and item.times.letter:
            heads = {n.split(".")[1] for n in shapes if n.startswith(f"{item.name}.")}
            found[item.times.letter] = len(heads)
    for name, leaf, shape in pairs:
        known = all(letter in found for size in leaf.axes for letter in size.letters)
        if known and leaf.shape(found) != tuple(shape):
            raise ContractError(
                f"{name} has the shape {shape}, but the signature says {leaf} = "
                f"{leaf.shape(found)} for {', '.join(f'{k}={v}' for k, v in found.items())}",
                item=name,
            )
    return found


def _same_leaf(name: str, pattern: str) -> bool:
    return name == pattern or (
        EACH in pattern
        and re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) is not None
    )


def flat_inputs(signature: Signature, arguments: Sequence[Any]) -> dict[str, Any]:
    """Given arguments as arrays by name.

    Raises:
        ContractError: they do not have the structure of the signature.
    """
    return {n: np.asarray(value) for n, value in named_leaves(signature, arguments).items()}


def named_leaves(signature: Signature, arguments: Sequence[Any]) -> dict[str, Any]:
    """Given arguments as leaves by name, as they are: tensors, tracers, arrays.

    Raises:
        ContractError: they do not have the structure of the signature.
    """
    if len(arguments) != len(signature.inputs):
        raise ContractError(
            f"{len(arguments)} arguments were given, but the signature has "
            f"{len(signature.inputs)} inputs: {', '.join(i.name for i in signature.inputs)}",
            item="args",
        )
    found: dict[str, Any] = {}
    for item, value in zip(signature.inputs, arguments, strict=True):
        found |= dict(_leaves_of(item, value, None))
    return found


def _leaves_of(item: Entry, value: Any, number: int | None) -> Iterator[tuple[str, Any]]:
    if item.leaf is not None:
        if item.leaf.kind != "constant":
            name = item.leaf.name
            yield name if number is None else name.replace(EACH, str(number), 1), value
        return
    if item.container == "dict":
        if not isinstance(value, Mapping) or any(part.name not in value for part in item.parts):
            _wrong_structure(item, value)
        inner = [value[part.name] for part in item.parts]
    else:
        if not isinstance(value, (tuple, list)):
            _wrong_structure(item, value)
        inner = list(value)
    if item.times is not None:
        for i, one in enumerate(inner):
            yield from _leaves_of(item.parts[0], one, i)
        return
    if len(inner) != len(item.parts):
        _wrong_structure(item, value)
    for part, one in zip(item.parts, inner, strict=True):
        yield from _leaves_of(part, one, number)


def _wrong_structure(item: Entry, value: Any) -> None:
    wanted = ", ".join(part.name or "..." for part in item.parts)
    raise ContractError(
        f"{item.name or 'an argument'} is a {type(value).__name__}, but the signature says a "
        f"{item.container} of {wanted}",
        item=item.name,
    )


def _unshared(cache: Any) -> Any:
    """A cache whose lists and dicts are copies: a backward pass may pop its steps off them."""
    if type(cache) is dict:
        return {key: _unshared(one) for key, one in cache.items()}
    if type(cache) in (list, tuple):
        return type(cache)(_unshared(one) for one in cache)
    return cache


def _kind(value: Any) -> str:
    return value.dtype.kind if hasattr(value, "dtype") else ""


def _no_wider(value: Any, like: Any) -> Any:
    """A result in the dtype of its input, where it has more digits: that hides no mistake."""
    if value is None or not _is_number(value):
        return value
    if not hasattr(value, "dtype"):
        return np.asarray(value, like.dtype)
    wider = value.dtype.kind != "f" or value.dtype.itemsize > like.dtype.itemsize
    return value.astype(like.dtype) if wider and value.dtype != like.dtype else value


def _is_whole(item: Entry, result: Any) -> bool:
    """Whether what was returned is one container, rather than it and a cache."""
    if item.container == "dict":
        return isinstance(result, Mapping) and all(part.name in result for part in item.parts)
    if item.container == "list":
        return isinstance(result, list)
    if item.container != "tuple" or not isinstance(result, tuple):
        return False
    inner = isinstance(result[0], (tuple, list)) if result else False
    return len(result) == len(item.parts) and inner is bool(item.parts[0].container)


def _is_number(value: Any) -> bool:
    """True for an array or a number, traced ones included."""
    return hasattr(value, "dtype") or isinstance(value, (int, float))
