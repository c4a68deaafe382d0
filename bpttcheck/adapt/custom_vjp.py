"""A ``jax.custom_vjp`` function as a cell or a layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpttcheck import trees
from bpttcheck.adapt.arguments import given, name_of, require_function, signature_of
from bpttcheck.adapt.jax_rule import JaxRule
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.adapt.programs import precision
from bpttcheck.adapt.subjects import AdaptedCell, AdaptedLayer
from bpttcheck.errors import ContractError

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
    meets a ``SymbolicZero``.

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
    engine = JaxRule(rule, plain, sequence, wrapped=_decorated(f) is None)
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
    )


@dataclass(frozen=True)
class _Decorated:
    """A ``jax.custom_vjp`` function and what ``functools.partial`` has bound to it."""

    function: Any
    positional: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def bind(self, more: functools.partial[Any]) -> _Decorated:
        keywords = {**dict(self.keywords), **more.keywords}
        return _Decorated(self.function, self.positional + more.args, tuple(keywords.items()))

    @property
    def rule(self) -> Callable[..., Any]:
        return self._bound(self.function)

    @property
    def primal(self) -> Callable[..., Any]:
        below = _decorated(self.function.fun)
        return self._bound(self.function.fun if below is None else below.primal)

    def _bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self.positional and not self.keywords:
            return function
        return functools.partial(function, *self.positional, **dict(self.keywords))

    def require_rule(self, f: object) -> None:
        if getattr(self.function, "bwd", self) is None:
            raise ContractError(
                f"{given('f', f)} has no rule yet, expected a rule to test: call "
                "f.defvjp(fwd, bwd) first",
                item="f",
            )
        signature = signature_of(self.function.fun)
        static = getattr(self.function, "nondiff_argnums", ())
        if signature is None or not static:
            return
        names = list(signature.parameters)
        bound = self._names_bound(signature)
        missing = [names[i] for i in static if names[i] not in bound]
        if missing:
            raise ContractError(
                f"{given('f', f)} has the arguments {missing} that are not differentiated "
                "(nondiff_argnums), expected none; place them before params in the signature and "
                "bind them with functools.partial(f, value)",
                item="f",
            )

    def _names_bound(self, signature: inspect.Signature) -> set[str]:
        try:
            return set(signature.bind_partial(*self.positional, **dict(self.keywords)).arguments)
        except TypeError as error:
            raise ContractError(
                f"functools.partial binds arguments that f does not take: {error}", item="f"
            ) from error


def _decorated(f: Any) -> _Decorated | None:
    """The ``jax.custom_vjp`` function inside ``f``, under ``functools.partial`` and ``jax.jit``."""
    if isinstance(f, type):
        return None
    if isinstance(f, functools.partial):
        inner = _decorated(f.func)
        return None if inner is None else inner.bind(f)
    if callable(getattr(f, "defvjp", None)) and callable(getattr(f, "fun", None)):
        return _Decorated(f)
    is_jitted = callable(getattr(f, "lower", None)) and hasattr(f, "__wrapped__")
    return _decorated(f.__wrapped__) if is_jitted else None


def _rule_and_primal(
    f: Any, primal: Any, arguments: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    decorated = _decorated(f)
    if decorated is None:
        if primal is None or isinstance(f, type) or not callable(f):
            raise ContractError(_no_rule(f), item="f")
        rule = f
    else:
        decorated.require_rule(f)
        rule = decorated.rule
    require_function("f", rule, arguments)
    if primal is None and decorated is not None:
        return rule, decorated.primal
    inner = _decorated(primal)
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
        import numpy as np

        with precision([np.zeros(0, np.float64)]):
            return trees.map_leaves(np.array, init(rng, n_in, n_hidden))

    return run


def _start_on_numpy(initial_state: Callable[..., Any]) -> Callable[..., Any]:
    def run(params: Any, batch_size: int) -> Any:
        import numpy as np

        with precision([np.asarray(leaf) for leaf in trees.leaves(params)]):
            return trees.map_leaves(np.array, initial_state(params, batch_size))

    return run
