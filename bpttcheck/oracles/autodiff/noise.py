"""Monte Carlo arithmetic: run a traced program with rounding noise injected into every operation.

An interpreter walks the jaxpr of one step. Each rounded floating result ``o`` becomes

    o (1 + eps u)                                       relative rounding error
    o (1 + eps u) + eps u' (x - stop_gradient(x))       for a nonlinear one of ``x``

with ``u``, ``u'`` uniform, of mean zero and unit variance. The second term moves only the
derivative: hand formulas such as ``s (1 - s)`` and ``1 - tanh^2`` are right to ``eps`` absolutely,
not relatively. A power or a quotient whose value or derivative falls below the smallest normal
number of the dtype also has an absolute error: the ``1 / y^2`` that JAX multiplies with is zero for
``y`` above 1e154, although ``exp(-z) / y^2`` with ``y = 1 + exp(-z)`` is not. With ``eps = 0`` the
program is the original one, so one program serves every dtype.

Where a branch (``maximum``, a comparison, ``abs``) lies within rounding of its threshold, each
noisy copy takes a side of its own; together they span the gradients that are correct there.

Source: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002 (1997).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from bpttcheck.calibration import KINK_MARGIN
from bpttcheck.errors import Declined
from bpttcheck.oracles.error_origin import on_behalf

COPIES_AXIS = "copies"

PATTERN = 1 << 16
"""Copy ``PATTERN + bits`` decides free branch ``i`` by bit ``i``, the same for all elements."""

_INLINED = {
    "pjit": "jaxpr",
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    # The primal of a custom rule: a rule under test must not be its own reference.
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}

_EXACT = frozenset(
    "abs argmax argmin broadcast_in_dim ceil clamp concatenate convert_element_type copy copy_p "
    "dynamic_slice dynamic_update_slice expand_dims floor gather iota max min neg pad real imag "
    "reduce_max reduce_min reshape rev round scatter select_and_gather_add select_n sign slice "
    "sort split squeeze stop_gradient transpose device_put reduce_precision optimization_barrier "
    "reduce_and reduce_or random_bits".split()
)

# Functions that saturate, or whose derivative is usually written in terms of their value.
_SATURATING = frozenset(
    "acos acosh asin asinh atan atan2 atanh cos cosh digamma erf erf_inv erfc exp exp2 expm1 "
    "lgamma logistic sin sinh tan tanh".split()
)

# Here the same holds at the scale of the derivative: see :func:`_steepness`.
_POWERS = frozenset("cbrt div integer_pow log log1p pow rsqrt sqrt square".split())

_COMPARISONS = frozenset(["gt", "ge", "lt", "le"])


@dataclass
class Noise:
    """The supply of random numbers for one step of one copy.

    Args:
        eps: rounding unit of this copy, a traced scalar; 0 for the reference copy.
        unit: rounding unit of the case, the same for all copies; it sets the width of kinks.
        copy: this copy's number, a traced integer; 0 is the reference.
        values: enough uniform numbers of unit variance for one pass through the program.
        used: how many of them have been used.
        branches: how many branches were reached.
    """

    eps: Any
    unit: Any
    copy: Any
    values: Any
    used: int = 0
    branches: int = 0

    @cached_property
    def tiny(self) -> Any:
        """The smallest normal number of the case's dtype, which follows from its rounding unit.

        In float64 a larger one: XLA flushes subnormal numbers to zero, so noise of this size would
        vanish in the first product with a cotangent.
        """
        single, double = (float(jnp.finfo(t).tiny) for t in (jnp.float32, jnp.float64))
        return jnp.where(self.unit > 1e-10, single, double * 2**20)

    @cached_property
    def tiny_ulp(self) -> Any:
        """The last digit of the smallest normal number."""
        return self.tiny * self.unit

    # Scaled once for all operations, each of which then takes a slice: JAX traces, batches,
    # differentiates and lowers every equation, which takes longer than compiling them.
    @cached_property
    def _scaled(self) -> Any:
        return lax.mul(self.values, lax.full_like(self.values, self.eps))

    @cached_property
    def _factors(self) -> Any:
        return lax.add(self._scaled, lax.full_like(self.values, 1.0))

    def draw(self, shape: tuple[int, ...]) -> Any:
        """The next numbers ``u``, as an array of ``shape``."""
        return self._next(self.values, shape)

    def scaled(self, shape: tuple[int, ...]) -> Any:
        """The next numbers as ``eps u``."""
        return self._next(self._scaled, shape)

    def factor(self, shape: tuple[int, ...]) -> Any:
        """The next numbers as ``1 + eps u``."""
        return self._next(self._factors, shape)

    def _next(self, numbers: Any, shape: tuple[int, ...]) -> Any:
        size = math.prod(shape)
        part = lax.slice(numbers, (self.used,), (self.used + size,))
        self.used += size
        return part if len(shape) == 1 else lax.reshape(part, shape)


def uniform(key: Any, size: int) -> Any:
    """``size`` uniform float64 numbers of mean 0 and variance 1 from an unsigned 32-bit ``key``.

    An integer hash of (key, position): counter-based, so that the scan carries no generator state.
    """
    unsigned = np.dtype(np.uint32)

    def all_(number: int) -> Any:
        return lax.full((size,), number, unsigned)

    turn = lax.mul(lax.convert_element_type(key, unsigned), np.uint32(0x85EBCA6B))
    x = lax.mul(lax.iota(unsigned, size), all_(0x9E3779B9))
    x = lax.add(x, lax.broadcast(turn, (size,)))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        folded = lax.bitwise_xor(x, lax.shift_right_logical(x, all_(shift)))
        x = lax.mul(folded, all_(factor))
    x = lax.bitwise_xor(x, lax.shift_right_logical(x, all_(16)))
    wide = _Wide((size,))
    from_zero = lax.div(_double(x), wide(2.0**31))
    return lax.mul(lax.sub(from_zero, wide(1.0)), wide(math.sqrt(3.0)))


def count_draws(jaxpr: Any) -> int:
    """How many random numbers one pass through ``jaxpr`` uses."""
    total = 0
    for eqn in jaxpr.eqns:
        total += sum(count_draws(_open(sub)[0]) for sub in _subprograms(eqn))
        total += sum(math.prod(shape) for shape in _draws(eqn))
    return total


def constants(jaxpr: Any) -> Iterator[Any]:
    """Every literal number in ``jaxpr`` and in the programs inside it, in order.

    The printed text of a program abbreviates them.
    """
    for eqn in jaxpr.eqns:
        for variable in eqn.invars:
            if isinstance(variable, Literal):
                yield variable.val
        for value in eqn.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                    inner, captured = _open(part)
                    yield from captured
                    yield from constants(inner)
    for variable in jaxpr.outvars:
        if isinstance(variable, Literal):
            yield variable.val


def branches(jaxpr: Any) -> int:
    """How many branches one pass through ``jaxpr`` has; a clamp has two."""
    total = 0
    for eqn in jaxpr.eqns:
        total += sum(branches(_open(sub)[0]) for sub in _subprograms(eqn))
        if not _subprograms(eqn) and _is_event(eqn):
            total += 2 if eqn.primitive.name == "clamp" else 1
    return total


def interpret(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], noise: Noise | None
) -> list[Any]:
    """Evaluate ``jaxpr``, with noise unless ``noise`` is None.

    Args:
        jaxpr: an open jaxpr.
        consts: values of its constants.
        args: values of its inputs.
        noise: a supply of at least :func:`count_draws` numbers.

    Returns:
        The outputs, in order.

    Raises:
        Declined: for a primitive that has no derivative or hides one.
    """
    values: dict[Any, Any] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        outputs = _evaluate(eqn, [read(v) for v in eqn.invars], noise)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _evaluate(eqn: Any, inputs: list[Any], noise: Noise | None) -> Sequence[Any]:
    name = eqn.primitive.name
    if name in _INLINED:
        jaxpr, consts = _open(eqn.params[_INLINED[name]])
        return interpret(jaxpr, consts, inputs, noise)
    if name == "scan":
        return _scan(eqn, inputs, noise)
    if name == "cond":
        return _cond(eqn, inputs, noise)
    if "callback" in name or name in ("pallas_call", "ffi_call", "custom_call"):
        raise Declined(
            f"the reference contains {name}, which JAX cannot differentiate",
            remedy="pass a reference in plain jax.numpy",
        )
    if noise is not None and _is_event(eqn):
        return [_branch(name, inputs, noise)]
    out: Any = on_behalf(eqn.primitive.bind, *inputs, **eqn.params)
    outputs = list(out) if eqn.primitive.multiple_results else [out]
    return outputs if noise is None else [_round(name, o, inputs, noise) for o in outputs]


def _round(name: str, out: Any, inputs: list[Any], noise: Noise) -> Any:
    if not _rounds(name, out):
        return out
    shape, wide = out.shape, _Wide(out.shape)
    if name in _POWERS or name in ("exp", "exp2"):
        relative = lax.mul(_relative(out, noise, wide), noise.draw(shape))
        factor = lax.add(wide(1.0), relative)
    else:
        factor = noise.factor(shape)
    noisy = lax.mul(_double(out), factor)
    for x in _curved(name, inputs, out):
        fixed = lax.stop_gradient(x)
        if name in _SATURATING:
            slope = noise.scaled(shape)
        else:
            share = _share(name, _double(fixed), _double(out), noise, wide)
            slope = lax.mul(noise.draw(shape), share)
        # inf - inf is NaN
        zero = lax.select(lax.is_finite(fixed), lax.sub(x, fixed), lax.full_like(x, 0))
        noisy = lax.add(noisy, lax.mul(slope, _double(zero)))
    return noisy


class _Wide:
    """Scalars as arrays of one shape, which the primitives of ``lax`` want.

    Tracing the operators of ``jax.numpy`` takes several times as long as what they stand for.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, scalar: Any) -> Any:
        """``scalar`` at every place, as float64."""
        if isinstance(scalar, float):
            return lax.full(self.shape, scalar, np.dtype(np.float64))
        return lax.broadcast(scalar, self.shape) if self.shape else scalar


def _double(value: Any) -> Any:
    return value if value.dtype == np.float64 else lax.convert_element_type(value, np.float64)


def _relative(out: Any, noise: Noise, wide: _Wide) -> Any:
    """The relative error of a power: more than ``eps`` where it is a subnormal number."""
    eps = wide(noise.eps)
    size, zero = lax.abs(_double(lax.stop_gradient(out))), wide(0.0)
    lost = lax.div(wide(noise.tiny_ulp), size)
    any_noise = lax.bitwise_and(lax.gt(eps, zero), lax.gt(size, zero))
    return lax.max(eps, lax.min(wide(0.5), lax.select(any_noise, lost, zero)))


def _share(name: str, x: Any, out: Any, noise: Noise, wide: _Wide) -> Any:
    """How far noise moves the derivative of a power: ``eps |f / x|``, and what is no normal number.

    The derivative of a root of 1e300 is far from 1: noise of relative size 1, as for the functions
    that saturate, would hide it.
    """
    eps = wide(noise.eps)
    size = lax.max(lax.abs(lax.stop_gradient(out)), wide(1.0 if name[:3] == "log" else 0.0))
    least = wide(float(np.finfo(np.float64).tiny))
    steepness = lax.min(wide(1.0), lax.div(size, lax.max(lax.abs(x), least)))
    share, zero, tiny = lax.mul(eps, steepness), wide(0.0), wide(noise.tiny)
    # A derivative that is too small for a normal number.
    small = lax.bitwise_and(lax.gt(eps, zero), lax.lt(steepness, tiny))
    return lax.add(share, lax.select(small, tiny, zero))


def _branch(name: str, inputs: list[Any], noise: Noise) -> Any:
    """One elementwise branch; near its threshold each noisy copy takes its own side."""
    if name == "clamp":
        low, x, high = inputs
        low, high = jnp.broadcast_to(low, x.shape), jnp.broadcast_to(high, x.shape)
        return _branch("min", [_branch("max", [x, low], noise), high], noise)
    a, b = (inputs[0], -inputs[0]) if name == "abs" else jnp.broadcast_arrays(*inputs)
    free, first = _freedom(a, b, noise)
    if name in _COMPARISONS:
        natural = {"gt": a > b, "ge": a >= b, "lt": a < b, "le": a <= b}[name]
        return jnp.where(free, first if name in ("gt", "ge") else ~first, natural)
    value = {"max": jnp.maximum, "abs": jnp.maximum, "min": jnp.minimum}[name](a, b)
    chosen = jnp.where(first, a, b)
    # The value stays, only the slope is the chosen side's.
    loose = jax.lax.stop_gradient(value - chosen) + chosen
    return jnp.where(free, loose, value)


def _freedom(a: Any, b: Any, noise: Noise) -> tuple[Any, Any]:
    """Where ``a - b`` lies within rounding of zero, and which side this copy takes there.

    Copy 1 takes the first side everywhere, copy 2 the second, the others draw at random: real code
    chooses consistently, and mixed choices bound the rest. Copies from ``PATTERN`` on enumerate the
    consistent choices.
    """
    a, b = jax.lax.stop_gradient(a), jax.lax.stop_gradient(b)
    gap = a - b
    center = jax.lax.psum(jnp.where(noise.copy == 0, gap, 0.0), COPIES_AXIS)
    spread = jnp.sqrt(jax.lax.pmean((gap - center) ** 2, COPIES_AXIS))
    width = spread + noise.unit * (jnp.abs(a) + jnp.abs(b))
    near = jnp.abs(center) <= KINK_MARGIN * width
    drawn = noise.draw(gap.shape) > 0
    dictated = (noise.copy - PATTERN) >> min(noise.branches, 15) & 1 == 0
    noise.branches += 1
    first = jnp.where(noise.copy == 1, True, jnp.where(noise.copy == 2, False, drawn))
    first = jnp.where(noise.copy >= PATTERN, dictated, first)
    return near & (noise.copy > 0), first


def _scan(eqn: Any, inputs: list[Any], noise: Noise | None) -> Sequence[Any]:
    p = eqn.params
    n_consts, n_carry = p["num_consts"], p["num_carry"]
    consts, carry = inputs[:n_consts], inputs[n_consts : n_consts + n_carry]
    jaxpr, captured = _open(p["jaxpr"])
    # The same sizes each round, because their positions are static; the signs are each round's own.
    local = _reserve(noise, jaxpr)
    count = count_draws(jaxpr) if noise is not None else 0

    def body(state: Any, step: Any) -> tuple[list[Any], list[Any]]:
        round_, xs = step
        out = interpret(jaxpr, captured, [*consts, *state, *xs], _turned(local(), round_, count))
        # Noise is float64; what the author carries in a narrower dtype keeps that dtype.
        kept = [new.astype(old.dtype) for new, old in zip(out[:n_carry], state, strict=True)]
        return kept, out[n_carry:]

    rounds = jnp.arange(1, p["length"] + 1, dtype=jnp.uint32)
    last, ys = jax.lax.scan(
        body, carry, (rounds, inputs[n_consts + n_carry :]), reverse=p["reverse"]
    )
    return [*last, *ys]


def _turned(noise: Noise | None, round_: Any, count: int) -> Noise | None:
    """The next ``count`` numbers with random signs, independent in every iteration of a loop.

    With the same noise in each iteration, errors that cancel in real arithmetic would add up.
    """
    if noise is None or not count:
        return noise
    signs = jnp.where(uniform(round_, count) > 0, 1.0, -1.0)
    turned = signs * jax.lax.slice(noise.values, (noise.used,), (noise.used + count,))
    return replace(noise, values=turned, used=0)


def _cond(eqn: Any, inputs: list[Any], noise: Noise | None) -> Sequence[Any]:
    branches = []
    for closed in eqn.params["branches"]:
        jaxpr, consts = _open(closed)
        local = _reserve(noise, jaxpr)

        def branch(*args: Any, jaxpr: Any = jaxpr, consts: Any = consts, local: Any = local) -> Any:
            out = interpret(jaxpr, consts, args, local())
            return [o.astype(v.aval.dtype) for o, v in zip(out, eqn.outvars, strict=True)]

        branches.append(branch)
    return jax.lax.switch(inputs[0], branches, *inputs[1:])


def _reserve(noise: Noise | None, jaxpr: Any) -> Callable[[], Noise | None]:
    """Reserve the numbers for one subprogram; each call uses them from their start."""
    if noise is None:
        return lambda: None
    start, met = noise.used, noise.branches
    noise.used += count_draws(jaxpr)
    noise.branches += branches(jaxpr)
    return lambda: replace(noise, used=start, branches=met)


def inlined(eqn: Any) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr and constants of a call that only wraps a program; None for any other equation."""
    name = eqn.primitive.name
    return _open(eqn.params[_INLINED[name]]) if name in _INLINED else None


def _subprograms(eqn: Any) -> list[Any]:
    name = eqn.primitive.name
    if name in _INLINED:
        return [eqn.params[_INLINED[name]]]
    if name == "scan":
        return [eqn.params["jaxpr"]]
    return list(eqn.params["branches"]) if name == "cond" else []


def _open(program: Any) -> tuple[Any, Sequence[Any]]:
    """An open jaxpr and its constants, from a closed or an open one."""
    return (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())


def _draws(eqn: Any) -> list[tuple[int, ...]]:
    """Shapes of the random arrays that :func:`_evaluate` draws for one plain equation."""
    name = eqn.primitive.name
    if _subprograms(eqn):
        return []
    if _is_event(eqn):
        shape = eqn.outvars[0].aval.shape
        return [shape, shape] if name == "clamp" else [shape]
    shapes: list[tuple[int, ...]] = []
    for variable in eqn.outvars:
        out = variable.aval
        if _rounds(name, out):
            shapes += [out.shape] * (1 + len(_curved(name, [v.aval for v in eqn.invars], out)))
    return shapes


def _is_event(eqn: Any) -> bool:
    name = eqn.primitive.name
    kinds = _COMPARISONS | {"max", "min", "clamp", "abs"}
    return name in kinds and all(_floating(v.aval) for v in eqn.invars)


def _rounds(name: str, out: Any) -> bool:
    return name not in _EXACT and not name.startswith(("scatter", "while")) and _floating(out)


def _curved(name: str, inputs: Sequence[Any], out: Any) -> list[Any]:
    """The inputs with respect to which a saturating operation gets derivative noise."""
    if name not in _SATURATING | _POWERS:
        return []
    return [x for x in inputs if getattr(x, "shape", None) == out.shape and _floating(x)]


def _floating(value: Any) -> bool:
    dtype: Any = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
