"""A ``jax.custom_vjp`` function as a cell or a layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.adapt.arguments import given, name_of, require_function, signature_of
from bpttcheck.adapt.jax_rule import JaxRule
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.adapt.programs import precision
from bpttcheck.adapt.subjects import AdaptedCell, AdaptedLayer
from bpttcheck.errors import ContractError

_PARTS = ("fun", "fwd", "bwd", "jvp")
_CELL_ARGUMENTS = ("params", "state", "x")
_LAYER_ARGUMENTS = ("params", "xs", "state0")


def from_custom_vjp(
    f: Callable[..., Any],
    *,
    init: Init,
    initial_state: Callable[..., Any] | None = None,
    primal: Callable[..., Any] | None = None,
    sequence: bool = False,
    name: str | None = None,
) -> AdaptedCell | AdaptedLayer:
    """A cell or a layer whose backward pass is the rule of a ``jax.custom_vjp`` function.

    The forward pass is the undecorated function; the backward pass is ``jax.vjp(f, ...)``, which
    applies the hand-derived rule; the reference is the undecorated function again, so that the rule
    is never compared with itself. float64 runs in JAX's 64-bit mode, switched on for the call
    alone; float32 runs in the mode that the program has set. Where one of the two results has no
    cotangent but zeros, it takes no part in the loss, so that a rule with ``symbolic_zeros=True``
    meets a ``SymbolicZero``. One small case is asked in the ways of training code, too: with one
    input alone differentiated and one result alone in the loss where the rule is told of it, and
    under ``vmap``, which must give the gradients of the rows.

    Args:
        f: a ``jax.custom_vjp`` function ``f(params, state, x) -> (state, y)``; with ``sequence``,
            ``f(params, xs, state0) -> (ys, state_T)``. ``jax.jit`` around it is taken off.
            Arguments that are not differentiated are bound by ``functools.partial``. Plain code
            that calls a ``jax.custom_vjp`` function is accepted together with ``primal``.
        init: ``init(rng, n_in, n_hidden) -> params``, or a table of shapes such as
            ``{"W": ("n_hidden", "n_in"), "b": ((4, "n_hidden"),)}``, drawn as ``normal /
            sqrt(last size)``.
        initial_state: ``initial_state(params, batch_size) -> state``. The default, zeros
            ``(B, n_hidden)``, needs a table of shapes that names ``"n_hidden"``.
        primal: the function without the rule, where it is not the one that was decorated, or where
            that one cannot be differentiated (a kernel, a callback).
        sequence: True for a layer. Its reference is the undecorated function on one step.
        name: how reports call it; the default is the name of ``f``.

    Returns:
        A cell, or a layer with ``sequence``; ``reference`` is the undecorated step,
        ``nested_rules`` names the custom rules inside it.

    Raises:
        ContractError: ``f`` has no hand-derived rule, has unbound arguments that are not
            differentiated, or takes other arguments than these.
    """
    fresh, start = parameters(init, initial_state)
    rule, plain = _rule_and_primal(f, primal, _LAYER_ARGUMENTS if sequence else _CELL_ARGUMENTS)
    engine = JaxRule(rule, plain, sequence, wrapped=decorated(f) is None)
    return (AdaptedLayer if sequence else AdaptedCell)(
        name_of(name, f),
        "from_custom_vjp",
        _fresh_on_numpy(fresh),
        _start_on_numpy(start),
        engine.forward,
        engine.vjp,
        _one_step(plain) if sequence else plain,
        fixed_sizes=True,
        rules_inside=engine.nested_rules,
        adapter_notes=lambda: (*held_constant(f), *engine.said),
    )


def held_constant(f: Any) -> tuple[str, ...]:
    """What a function and its rule close over: a note on the arrays whose gradient nobody takes."""
    found = decorated(f)
    parts = [f] if found is None else [getattr(found.function, n, None) for n in _PARTS]
    arrays: dict[str, str] = {}
    for part in filter(inspect.isfunction, parts):
        around = inspect.getclosurevars(part)
        for name, value in {**around.globals, **around.nonlocals}.items():
            if getattr(getattr(value, "dtype", None), "kind", "") == "f" and np.ndim(value):
                arrays[name] = f"{name} {value.dtype}{list(value.shape)}"
    if not arrays:
        return ()
    return (
        f"held constant, since {name_of(None, f)} closes over it: {', '.join(arrays.values())}; a "
        "gradient of it is taken only if it is an argument",
    )


@dataclass(frozen=True)
class Decorated:
    """A function with a rule and what ``functools.partial`` has bound to it.

    Args:
        function: the ``jax.custom_vjp`` or ``jax.custom_jvp`` function.
        positional: the arguments bound.
        keywords: those bound by name.
    """

    function: Any
    positional: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def bind(self, more: functools.partial[Any]) -> Decorated:
        """With what a partial binds, too."""
        keywords = {**dict(self.keywords), **more.keywords}
        return Decorated(self.function, self.positional + more.args, tuple(keywords.items()))

    @property
    def rule(self) -> Callable[..., Any]:
        """The function with its rule."""
        return self._bound(self.function)

    @property
    def primal(self) -> Callable[..., Any]:
        """The function that was decorated, also where it was decorated twice."""
        below = decorated(self.function.fun)
        return self._bound(self.function.fun if below is None else below.primal)

    def _bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self.positional and not self.keywords:
            return function
        return functools.partial(function, *self.positional, **dict(self.keywords))

    @property
    def is_forward(self) -> bool:
        """True if its rule is one of forward mode, that of a ``jax.custom_jvp`` function."""
        return not callable(getattr(self.function, "defvjp", None))

    def require_rule(self, f: object, static: Collection[str] | None = None) -> None:
        """Refuse a function whose rule is missing or has arguments that are not bound.

        Args:
            f: the function, for messages.
            static: the constants of its signature; None: it is called as a cell's step.
        """
        rule, how = ("jvp", "f.defjvp(rule)") if self.is_forward else ("bwd", "f.defvjp(fwd, bwd)")
        if getattr(self.function, rule, self) is None:
            raise ContractError(
                f"{given('f', f)} has no rule yet, expected a rule to test: call {how} first",
                item="f",
            )
        signature = signature_of(self.function.fun)
        constants = getattr(self.function, "nondiff_argnums", ())
        if signature is None or not constants:
            return
        names = list(signature.parameters)
        bound = self._names_bound(signature)
        missing = [names[i] for i in constants if names[i] not in bound | {*(static or ())}]
        if missing:
            remedy = (
                "place them before params in the signature and bind them with"
                " functools.partial(f, value)"
                if static is None
                else f"give each its value in the signature, under its name: '{missing[0]} = True'"
            )
            raise ContractError(
                f"{given('f', f)} has the arguments {missing} that are not differentiated"
                f" (nondiff_argnums), expected none; {remedy}",
                item="f",
            )

    def _names_bound(self, signature: inspect.Signature) -> set[str]:
        try:
            return set(signature.bind_partial(*self.positional, **dict(self.keywords)).arguments)
        except TypeError as error:
            raise ContractError(
                f"functools.partial binds arguments that f does not take: {error}", item="f"
            ) from error


def decorated(f: Any) -> Decorated | None:
    """The function with a rule inside ``f``, under ``functools.partial`` and ``jax.jit``."""
    if isinstance(f, type):
        return None
    if isinstance(f, functools.partial):
        inner = decorated(f.func)
        return None if inner is None else inner.bind(f)
    has_rule = any(callable(getattr(f, name, None)) for name in ("defvjp", "defjvp"))
    if has_rule and callable(getattr(f, "fun", None)):
        return Decorated(f)
    is_jitted = callable(getattr(f, "lower", None)) and hasattr(f, "__wrapped__")
    return decorated(f.__wrapped__) if is_jitted else None


def _rule_and_primal(
    f: Any, primal: Any, arguments: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    found = decorated(f)
    if found is not None and found.is_forward:
        raise ContractError(
            f"{given('f', f)} is a jax.custom_jvp function, expected a jax.custom_vjp function; "
            "bpttcheck.adapt.from_jax checks both kinds of rules",
            item="f",
        )
    if found is None:
        if primal is None or isinstance(f, type) or not callable(f):
            raise ContractError(_no_rule(f), item="f")
        rule = f
    else:
        found.require_rule(f)
        rule = found.rule
    require_function("f", rule, arguments)
    if primal is None and found is not None:
        return rule, found.primal
    inner = decorated(primal)
    plain = primal if inner is None else inner.primal
    return rule, require_function("primal", plain, arguments)


def _no_rule(f: object) -> str:
    if isinstance(f, type) or not callable(f):
        return f"{given('f', f)}, expected a jax.custom_vjp function"
    return (
        f"{given('f', f)} is no jax.custom_vjp function, expected one, so that there is a "
        "hand-derived rule to test; if it calls one, give the same computation without the rule as "
        "primal=; if its backward pass is a function of its own, use from_callables"
    )


def _one_step(forward: Callable[..., Any]) -> Callable[..., Any]:
    def step(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        ys, new_state = forward(params, x[None], state)
        return new_state, ys[0]

    step.__name__ = f"one step of {name_of(None, forward)}"
    return step


def _fresh_on_numpy(init: Callable[..., Any]) -> Callable[..., Any]:
    def run(rng: Any, n_in: int, n_hidden: int) -> Any:
        with precision([np.zeros(0, np.float64)]):
            return trees.map_leaves(np.array, init(rng, n_in, n_hidden))

    return run


def _start_on_numpy(initial_state: Callable[..., Any]) -> Callable[..., Any]:
    def run(params: Any, batch_size: int) -> Any:
        with precision([np.asarray(leaf) for leaf in trees.leaves(params)]):
            return trees.map_leaves(np.array, initial_state(params, batch_size))

    return run
