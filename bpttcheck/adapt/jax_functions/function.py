"""A JAX function of any signature with a hand-derived rule in it: the rule against its primal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from bpttcheck.adapt.arguments import given, name_of
from bpttcheck.adapt.custom_vjp import decorated, held_constant
from bpttcheck.adapt.function import ForwardPass, Function
from bpttcheck.adapt.functions import from_vjp
from bpttcheck.adapt.jax_rule import JaxRule, custom_rules
from bpttcheck.adapt.programs import compiled, precision
from bpttcheck.adapt.second_order import Backward, of_second_order, require_order
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, Declined
from bpttcheck.signature import Signature

_FORWARD_ALONE = "forward alone"
# Not one: a rule that is not linear in its tangent would go unseen.
_STEP = -2.0
_NO_RULE = (
    "{} calls no function with a rule, so that no hand-derived gradient would be tested; expected "
    "a jax.custom_vjp or jax.custom_jvp function, or code that calls one"
)


@dataclass(frozen=True, repr=False)
class JaxFunction(Function):
    """A function of JAX arrays, run on NumPy arrays.

    Args:
        engine: runs it forward, and its rule backward.
        primal: the function without the rule; what JAX calls the reference.
        tangents: whether its rule is one of forward mode.
        closed_over: what it closes over, as a note.
    """

    engine: Any = None
    primal: Callable[..., Any] | None = None
    tangents: bool = False
    closed_over: tuple[str, ...] = ()
    fixed_sizes = True

    def forward(
        self, params: Mapping[str, Any], xs: Any, state0: Any, mask: Any = None
    ) -> tuple[Any, tuple[()], ForwardPass]:
        """``(outputs, (), tape)``, with all outputs in one row ``(1, 1, M)``."""
        nothing = np.zeros((1, 1, 0))
        outputs, _, _ = self.engine.forward(dict(params), nothing, ())
        row = np.concatenate([one.reshape(-1) for one in outputs.values()]).reshape(1, 1, -1)
        return row, (), ForwardPass(self.letters(params), params, (), outputs, {})

    def gradients(self, tape: ForwardPass, d_ys: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The gradient of each input by the rule."""
        params, nothing = dict(tape.params), np.zeros((1, 1, 0))
        cache = ((params, nothing, ()), (dict(tape.outputs), ()))
        cotangents = self.unpacked(d_ys, tape)
        if _FORWARD_ALONE in self.engine.remarks:
            return self._by_columns(params, cotangents), {}
        try:
            found, _, _ = self.engine.vjp(params, cache, cotangents, ())
        except ContractError:
            raise
        except Exception as error:
            if not self.tangents:
                raise
            by_columns = self._by_columns(params, cotangents)
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            self.engine.remarks[_FORWARD_ALONE] = (
                f"judged in forward mode alone: JAX cannot transpose the rule ({reason})",
            )
            return by_columns, {}
        return {n: found[n] for n, value in params.items() if is_float(value)}, {}

    @property
    def jvp(self) -> Callable[..., Any] | None:
        """``jvp(params, xs, state0, v_params, v_xs, v_state0)`` by a rule of forward mode."""
        both = self.tangents and _FORWARD_ALONE not in self.engine.remarks
        return self._tangents if both else None

    def jax_reference(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The outputs of the primal in the order of the row.

        Raises:
            Declined: it contains rules that would be compared with themselves.
        """
        return list(named_outputs(self, self.primal, arrays).values())

    def adapter_notes(self) -> tuple[str, ...]:
        """What it closes over, and what its rule does not support."""
        return (*self.closed_over, *self.engine.said)

    def _tangents(
        self, params: Any, xs: Any, state0: Any, v_params: Any, v_xs: Any, v_state0: Any
    ) -> tuple[Any, tuple[()]]:
        along = {name: v_params[name] for name, value in params.items() if is_float(value)}
        found = self._program(_tangents_of, params, along)
        return np.concatenate([np.ravel(one) for one in found.values()]).reshape(1, 1, -1), ()

    def _by_columns(
        self, params: Mapping[str, Any], cotangents: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The gradient entry by entry, by a rule that cannot be transposed."""
        found = self._program(_columns_of, params, cotangents)
        return {name: np.array(gradient) for name, gradient in found.items()}

    def _program(
        self, maker: Callable[..., Any], params: Mapping[str, Any], others: Mapping[str, Any]
    ) -> Any:
        """What a function of the rule's outputs gives, compiled once for each shape."""
        import jax

        given = [{n: np.asarray(v) for n, v in one.items()} for one in (params, others)]
        leaves = [leaf for one in given for leaf in one.values()]
        key = (maker.__name__, *((leaf.shape, str(leaf.dtype)) for leaf in leaves))

        def outputs(leaves: Mapping[str, Any]) -> dict[str, Any]:
            return self.engine.rule(leaves, np.zeros((1, 1, 0)), ())[0]

        with precision(leaves):
            program = self.engine.programs.get(
                key, lambda: compiled(jax.jit(partial(maker, outputs)).trace(*given))
            )
            return program(*given)


def _tangents_of(outputs: Callable[..., Any], params: Any, along: Any) -> Any:
    """The tangent of every output, for tangents of the float inputs."""
    import jax

    point = {name: params[name] for name in along}
    return jax.jvp(lambda floats: outputs({**params, **floats}), (point,), (along,))[1]


def _columns_of(outputs: Callable[..., Any], params: Any, cotangents: Any) -> Any:
    """``<d_y, J e_i>`` for every entry i of the float inputs."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    floats = {n: v for n, v in params.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    flat, by_name = ravel_pytree(floats)

    def entry(i: Any) -> Any:
        along = by_name(jnp.zeros_like(flat).at[i].set(_STEP))
        tangents = _tangents_of(outputs, params, along)
        return sum(jnp.vdot(cotangents[n], v) for n, v in tangents.items()) / _STEP

    return by_name(jax.lax.map(entry, jnp.arange(flat.size)))


def from_jax(
    function: Callable[..., Any],
    signature: str,
    primal: Callable[..., Any] | None = None,
    *,
    order: int = 1,
    at: Any = None,
    batch: str | None = None,
    time: str | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    name: str | None = None,
) -> Function:
    """A JAX function with a hand-derived rule: a ``jax.custom_vjp`` or a ``jax.custom_jvp``.

    Its gradient by the rule, which is ``jax.vjp(function, ...)``, is compared with the gradient
    that JAX derives of the same function without the rule, and with finite differences. A rule of
    forward mode is judged transposed, and the check ``jvp`` compares its tangents with that; where
    JAX cannot transpose it, its tangents are judged one by one, and the report says so.

    One small case is asked in the ways of training code, too: with one input alone differentiated
    and one output alone in the loss where a rule is told of it (``symbolic_zeros=True``), and under
    ``vmap`` over cotangents and over everything. A rule that raises there is noted.

    What the function closes over is held constant, and the report names it. Where that depends on
    an input, as in a function made inside another, JAX pulls no gradient back to it: pass it as an
    argument, or hoist it with ``jax.closure_convert``.

    Args:
        function: a function with a rule, under ``jax.jit`` and ``functools.partial`` if need be, or
            plain code that calls one.
        signature: inputs and outputs, such as ``"x: T N D, W: H D -> y: T N H"``.
        primal: the same in plain JAX, where the decorated function cannot be differentiated (a
            kernel, a callback) or contains rules of its own. None: the undecorated function.
        order: 2 checks the gradient of the gradient instead: see ``docs/how-to/your-code.md``.
        at: arguments: these very values are judged and no others.
        batch: the letter of the batch axis; ``""``: there is none; None: ``B`` or ``N``.
        time: the letter of the time axis; ``""``: there is none; None: ``T``.
        domain: input -> the values that it may have.
        deterministic: the results must be equal bit by bit in every call.
        name: how reports call it; None: the name of the function.

    Returns:
        A subject for :func:`bpttcheck.check`, ``parametrize_with_checks`` and the rest.

    Raises:
        ContractError: ``function`` has no rule yet, or an argument is malformed.
    """
    require_order(order)
    for what, one in (("function", function), ("primal", primal)):
        if isinstance(one, type) or not (callable(one) or (what == "primal" and one is None)):
            raise ContractError(f"{given(what, one)}, expected a function of arrays", item=what)
    parsed = Signature.parse(signature, batch=batch, time=time)
    if not parsed.outputs:
        raise ContractError(
            f"signature={signature!r} names no outputs: write '... -> h: N T H'", item="signature"
        )
    found = decorated(function)
    if found is not None:
        found.require_rule(function, [x.name for x in parsed.leaves if x.kind == "constant"])
    rule = function if found is None else found.rule
    inner = decorated(primal) if primal is not None else found
    plain = (primal or function) if inner is None else inner.primal
    title = name_of(name, function)
    notes = held_constant(function)
    options: dict[str, Any] = {
        "domain": domain, "deterministic": deterministic, "at": at,
    }  # fmt: skip
    if order == 1:
        made = _made(rule, signature, title, batch=batch, time=time, **options)
        engine = JaxRule(*[_as_layer(made, rule)] * 2, sequence=True, wrapped=found is None)
        tangents = found is not None and found.is_forward
        return _with(made, engine=engine, primal=plain, tangents=tangents, closed_over=notes)
    base = _made(rule, signature, title, batch=batch, time=time)
    text = of_second_order(base.signature)
    twice = Backward(rule, base, _pull(title, must_have=True))
    of_plain = Backward(plain, base, _pull(title, must_have=False))
    made = _made(twice, text, f"gradient of {title}", batch="", time=base.signature.time, **options)
    engine = JaxRule(*[_as_layer(made, twice)] * 2, sequence=True)
    return _with(made, engine=engine, primal=of_plain, closed_over=notes)


def named_outputs(of: Function, function: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a JAX function by name, from its inputs by name; JAX sorts names."""
    sizes = of.letters(leaves)
    result = function(*of.signature.build(leaves, sizes))
    found = of.outputs_of(result, sizes)
    return {name: found[name] for name in sorted(found)}


def _made(function: Callable[..., Any], text: str, title: str, **options: Any) -> Function:
    made = from_vjp(function, partial(_by_the_rule, function), text, name=title, **options)
    return replace(made, methods=(title, f"{title}'s rule"))


def _with(made: Function, **more: Any) -> JaxFunction:
    own: dict[str, Any] = {one.name: getattr(made, one.name) for one in fields(made)}
    return JaxFunction(**own, **more)


def _by_the_rule(*arguments: Any) -> Any:
    """In the place of a backward function, of which there is none: JAX calls the rule."""
    raise NotImplementedError


def _as_layer(made: Function, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the layer of one step that a function is."""

    def layer(leaves: Any, xs: Any, state0: Any) -> tuple[dict[str, Any], tuple[()]]:
        return named_outputs(made, function, leaves), ()

    layer.__name__ = made.name
    return layer


def _pull(title: str, must_have: bool) -> Callable[..., Any]:
    """Pulls back by JAX; a function with a rule must have it, and its primal must have none."""

    def pull(function: Callable[..., Any], floats: list[Any], slopes: list[Any]) -> list[Any]:
        import jax

        rules = custom_rules(jax.make_jaxpr(function)(floats))
        if must_have and not rules:
            raise ContractError(_NO_RULE.format(title), item="function")
        if rules and not must_have:
            raise Declined(
                f"the primal contains the rule of {', '.join(sorted(rules))}, which would be "
                "compared with itself",
                remedy="primal= in plain jax.numpy",
            )
        values, back = jax.vjp(function, floats)
        return back([d.astype(v.dtype) for d, v in zip(slopes, values, strict=True)])[0]

    return pull
