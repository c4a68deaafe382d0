"""A JAX function with a hand-derived rule, run on NumPy arrays: its value and its pull-back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from bpttcheck import trees
from bpttcheck.adapt.arguments import name_of
from bpttcheck.adapt.jax_functions import (
    JaxPass,
    check_forward_value,
    is_small,
    require_conduct,
)
from bpttcheck.adapt.programs import Programs, compiled, precision
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import is_x64

_LIBRARY = f"{os.sep}jax{os.sep}_src{os.sep}"
_CLOSED_OVER = (
    "a function with a rule closes over a value that depends on the inputs, to which JAX cannot "
    "pull a gradient back; expected all that it is a function of among its arguments: pass the "
    "value in, or hoist it with jax.closure_convert"
)


@dataclass(frozen=True, eq=False)
class JaxRule:
    """The primal runs forward and the rule runs backward, strictly separated.

    Args:
        rule: the function whose hand-derived rule is under test, of three arguments.
        primal: the same function without the rule.
        sequence: False for ``(params, state, x) -> (state, y)``, True for
            ``(params, xs, state0) -> (ys, state_T)``.
        wrapped: True if ``rule`` is plain code that is said to call the hand-derived rule.
        programs: the compiled programs.
        nested: names of the custom rules met inside ``primal``.
        zeros: whether ``rule`` asks for symbolic zeros, once that has been looked up.
        remarks: what the rule does not support, once it has been asked in other ways.
    """

    rule: Callable[..., Any]
    primal: Callable[..., Any]
    sequence: bool = False
    wrapped: bool = False
    programs: Programs = field(default_factory=Programs)
    nested: set[str] = field(default_factory=set[str])
    zeros: dict[str, bool] = field(default_factory=dict[str, bool])
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def forward(self, *arguments: Any) -> tuple[Any, Any, Any]:
        """The two results of the primal and, as the cache, the arguments and the results."""
        import jax

        leaves, tree = jax.tree.flatten(_as_arrays(arguments))
        results = self._value(leaves, tree)
        if self.sequence:
            results = (results[0], _in_line(arguments[2], results[1]))
        else:
            results = (_in_line(arguments[1], results[0]), results[1])
        return (*results, (arguments, results))

    def vjp(self, params: Any, cache: Any, *cotangents: Any) -> Any:
        """The cotangents of the three arguments, pulled back through the rule.

        Raises:
            ContractError: the rule's own forward pass returns another value than the primal, or a
                cotangent has another structure than the result it belongs to.
        """
        import jax
        import numpy as np

        (_, *others), results = cache
        arguments = (params, *others)
        leaves, tree = jax.tree.flatten(_as_arrays(arguments))
        slopes = self._slopes(cotangents, results)
        used = self._used(slopes, results)
        with precision(leaves):
            if not all(used) and not self._asks_for_zeros(leaves, tree):
                used = [True] * len(slopes)
            program = self._pull_back(leaves, slopes, tree, used)
            values, gradients = jax.tree.map(_own, program(leaves, slopes))
            self._ask_otherwise(arguments, leaves, slopes, tree, results)
        check_forward_value(
            values,
            self._floats(results),
            self._labels(results),
            leaves,
            lambda nudged: self._floats(self._value(nudged, tree)),
        )
        source = iter(gradients)
        whole = [next(source) if is_float(leaf) else np.zeros_like(leaf) for leaf in leaves]
        return _in_line(arguments, jax.tree.unflatten(tree, whole))

    @property
    def said(self) -> tuple[str, ...]:
        """What the rule does not support, as far as it has been asked."""
        return tuple(itertools.chain.from_iterable(self.remarks.values()))

    def nested_rules(self) -> tuple[str, ...]:
        """Names of the custom rules met inside the primal so far."""
        return tuple(sorted(self.nested))

    def _value(self, leaves: list[Array], tree: Any) -> tuple[Any, Any]:
        import jax

        with precision(leaves):
            program = self.programs.get(
                ("value", tree, _shapes(leaves), is_x64()),
                lambda: self._compile_value(leaves, tree),
            )
            return jax.tree.map(_own, program(leaves))

    def _compile_value(self, leaves: list[Array], tree: Any) -> Any:
        import jax

        primal, sequence = self.primal, self.sequence

        def value(leaves: list[Any]) -> tuple[Any, Any]:
            return _pair(primal(*jax.tree.unflatten(tree, leaves)), sequence)

        traced = jax.jit(value).trace(leaves)
        self.nested.update(custom_rules(traced.jaxpr))
        return compiled(traced)

    def _used(self, slopes: list[Array], results: tuple[Any, Any]) -> list[bool]:
        """The results that take part in the loss: not the one of the two without any cotangent."""
        first = len(self._floats((results[0], ())))
        takes_part = [
            not any(slope.size for slope in part) or any(slope.any() for slope in part)
            for part in (slopes[:first], slopes[first:])
        ]
        used = [takes_part[i >= first] for i in range(len(slopes))]
        return used if any(used) else [True] * len(slopes)

    def _asks_for_zeros(self, leaves: list[Array], tree: Any) -> bool:
        """True if a rule tells a result that takes no part in the loss from one with zeros."""
        if "asked" not in self.zeros:
            rules = _rule_calls(self._traced(leaves, tree))
            asked = any(rule.params.get("symbolic_zeros", False) for rule, _ in rules)
            self.zeros["asked"] = asked
        return self.zeros["asked"]

    def _pull_back(
        self, leaves: list[Array], slopes: list[Array], tree: Any, used: list[bool]
    ) -> Any:
        def program(used: list[bool]) -> Any:
            return self.programs.get(
                ("pull_back", tree, _shapes(leaves), _shapes(slopes), tuple(used), is_x64()),
                lambda: self._compile_pull_back(leaves, slopes, tree, used),
            )

        try:
            return program(used)
        except Exception as error:
            everything = [True] * len(used)
            if used == everything:
                raise
            program(everything)  # errors here are raised as they are
            names = ("state", "y") if not self.sequence else ("ys", "state_T")
            unused = names[0] if not used[0] else names[1]
            raise ContractError(
                f"the rule's bwd raised {type(error).__name__}: {error} where {unused} takes no "
                "part in the loss, expected the gradient of the rest; with symbolic_zeros=True "
                "JAX hands in a SymbolicZero for such a result",
                method="bwd",
                item=f"d_{unused}",
            ) from error

    def _compile_pull_back(
        self, leaves: list[Array], slopes: list[Array], tree: Any, used: list[bool]
    ) -> Any:
        import jax

        differentiated = [is_float(leaf) for leaf in leaves]

        def pull_back(leaves: list[Any], slopes: list[Any]) -> tuple[Any, Any]:
            results_of = self._of_floats(leaves, differentiated, tree)

            def of_floats(floats: list[Any]) -> tuple[list[Any], list[Any]]:
                values = results_of(floats)
                return list(itertools.compress(values, used)), values

            floats = list(itertools.compress(leaves, differentiated))
            _, pull, values = jax.vjp(of_floats, floats, has_aux=True)
            cast = [d.astype(value.dtype) for d, value in zip(slopes, values, strict=True)]
            return values, pull(list(itertools.compress(cast, used)))[0]

        try:
            traced = jax.jit(pull_back).trace(leaves, slopes)
        except jax.errors.UnexpectedTracerError as error:
            raise ContractError(_CLOSED_OVER, method="bwd") from error
        # What escapes from a trace becomes an input that nobody gives.
        if len(traced.jaxpr.in_avals) > len(leaves) + len(slopes):
            raise ContractError(_CLOSED_OVER, method="bwd")
        if self.wrapped:
            self._require_rule(leaves, tree)
        return compiled(traced)

    def _ask_otherwise(
        self,
        arguments: tuple[Any, ...],
        leaves: list[Array],
        slopes: list[Array],
        tree: Any,
        results: tuple[Any, Any],
    ) -> None:
        """The first small case in the ways of training code."""
        import jax

        differentiated = [is_float(leaf) for leaf in leaves]
        floats = list(itertools.compress(leaves, differentiated))
        if "said" in self.remarks or not is_small(floats, slopes):
            return
        heads = ("params", "xs", "state0") if self.sequence else ("params", "state", "x")
        labels = [
            f"d_{head}{jax.tree_util.keystr(path)}"
            for head, part in zip(heads, arguments, strict=True)
            for path, leaf in jax.tree_util.tree_flatten_with_path(part)[0]
            if is_float(leaf)
        ]
        function = self._of_floats(leaves, differentiated, tree)
        one = JaxPass(function, labels, self._labels(results))
        told = self._asks_for_zeros(leaves, tree)
        self.remarks["said"] = require_conduct(one, floats, slopes, told)

    def _of_floats(
        self, leaves: list[Any], differentiated: list[bool], tree: Any
    ) -> Callable[[list[Any]], list[Any]]:
        """The rule from its float leaves, the others as they are, to its float results."""
        import jax
        import jax.numpy as jnp

        def of_floats(floats: list[Any]) -> list[Any]:
            source = iter(floats)
            whole = [
                next(source) if is_diff else leaf
                for leaf, is_diff in zip(leaves, differentiated, strict=True)
            ]
            results = _pair(self.rule(*jax.tree.unflatten(tree, whole)), self.sequence)
            flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(results)]
            return [leaf for leaf in flat if jnp.issubdtype(leaf.dtype, jnp.floating)]

        return of_floats

    def _require_rule(self, leaves: list[Array], tree: Any) -> None:
        if not custom_rules(self._traced(leaves, tree)):
            raise ContractError(
                f"f={name_of(None, self.rule)} calls no jax.custom_vjp function, so that no "
                "hand-derived rule would be tested; expected a function with a rule, or code that "
                "calls one",
                item="f",
            )

    def _traced(self, leaves: list[Array], tree: Any) -> Any:
        import jax

        # A fresh function: JAX remembers the traces of one that it has seen.
        return jax.make_jaxpr(lambda *leaves: self.rule(*jax.tree.unflatten(tree, leaves)))(*leaves)

    def _slopes(self, cotangents: tuple[Any, ...], results: tuple[Any, Any]) -> list[Array]:
        import jax

        flat, tree = jax.tree.flatten(_as_arrays(cotangents))
        values, expected = jax.tree.flatten(results)
        if tree != expected:
            raise ContractError(
                f"the cotangents have the structure {tree}, expected {expected}, as the results",
                method="vjp" if self.sequence else "step_vjp",
            )
        return [d for d, value in zip(flat, values, strict=True) if is_float(value)]

    def _floats(self, results: tuple[Any, Any]) -> list[Array]:
        import jax

        return [leaf for leaf in jax.tree.leaves(results) if is_float(leaf)]

    def _labels(self, results: tuple[Any, Any]) -> list[str]:
        import jax

        names = ("ys", "state") if self.sequence else ("state", "y")
        return [
            name + jax.tree_util.keystr(path)
            for name, tree in zip(names, results, strict=True)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
            if is_float(leaf)
        ]


def custom_rules(jaxpr: Any) -> set[str]:
    """Names of the functions with a custom rule called anywhere inside a jaxpr, JAX's left out."""
    return {name for _, name in _rule_calls(jaxpr)}


def _rule_calls(jaxpr: Any) -> Generator[tuple[Any, str]]:
    """Every call of a function with a rule, and the name of that function."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inside = _inside(equation)
        if equation.primitive.name.startswith(("custom_vjp_call", "custom_jvp_call")):
            told = getattr(getattr(inside[0], "jaxpr", None), "debug_info", None)
            name, _, place = getattr(told, "func_src_info", "").partition(" at ")
            if _LIBRARY not in place:
                yield equation, name or "custom rule"
        for part in inside:
            yield from _rule_calls(part)


def _inside(equation: Any) -> list[Any]:
    return [
        part
        for value in equation.params.values()
        for part in (value if isinstance(value, (tuple, list)) else (value,))
        if hasattr(getattr(part, "jaxpr", part), "eqns")
    ]


def _pair(results: Any, sequence: bool) -> tuple[Any, Any]:
    if isinstance(results, (tuple, list)) and len(results) == 2:
        return results[0], results[1]
    expected = "(ys, state_T)" if sequence else "(state, y)"
    got = f"{len(results)} values" if isinstance(results, (tuple, list)) else "one value"
    raise ContractError(
        f"f returned {got}, expected the pair {expected}; "
        "if the output is the new state itself, return it twice",
        method="forward" if sequence else "step",
    )


def _as_arrays(tree: Any) -> Any:
    import jax
    import numpy as np

    return jax.tree.map(np.asarray, tree)


def _own(leaf: Any) -> Array:
    # NumPy's view of JAX's memory is read-only, and may be the caller's own array.
    import numpy as np

    return np.array(leaf)


def _shapes(leaves: list[Array]) -> tuple[Any, ...]:
    return tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def _in_line(template: Any, tree: Any) -> Any:
    """``tree`` with the dict keys in the order of ``template`` and its integers as wide.

    JAX sorts keys, and without its 64-bit mode it narrows integers. A tree of another structure is
    left alone: the contract check names the difference.
    """
    import jax

    if jax.tree.structure(template) != jax.tree.structure(tree):
        return tree

    def as_wide(old: Any, new: Any) -> Any:
        kinds = [getattr(getattr(leaf, "dtype", None), "kind", "") for leaf in (old, new)]
        return new.astype(old.dtype) if kinds in (["i", "i"], ["u", "u"]) else new

    return trees.map_leaves(as_wide, template, tree)
