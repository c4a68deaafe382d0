"""The adjoints of products of matrices, of inverses and of solutions."""

from __future__ import annotations

from typing import Any

from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import (
    ArrayScene,
    Rule,
    Sent,
    batched,
    given,
    unsupported,
)
from bpttcheck.oracles.step_source.forward import of
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.terms import Term, call, conj, mul, number, total


def matmul(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_A = d @ B.T`` and ``d_B = A.T @ d``."""
    a, b = v.args
    yield from _product(here, v, a, b, here.full(d, v))


def _product(here: ArrayScene, v: Value, a: Any, b: Any, d: Term) -> Sent:
    A, B = here.forward.operand(a), here.forward.operand(b)
    if len(A.shape) == 1 and len(B.shape) == 1:
        yield from given((a, mul(d, conj(B))), (b, mul(d, conj(A))))
        return
    if len(A.shape) == 1 and len(B.shape) == 2:
        outer = mul(_new_axis(A, 1), _new_axis(d, 0))
        yield from given((a, terms.matmul(d, conj(terms.transposed(B)))), (b, outer))
        return
    if len(B.shape) == 1:
        spread = _new_axis(d, len(d.shape))
        axes = tuple(range(len(A.shape) - 1))
        yield from given(
            (a, mul(spread, conj(B))), (b, total(mul(spread, conj(A)), axes, keep=False))
        )
        return
    if len(A.shape) == 1:
        raise unsupported(v)
    for operand, term in (
        (a, terms.matmul(d, conj(terms.transposed(B)))),
        (b, terms.matmul(conj(terms.transposed(A)), d)),
    ):
        if isinstance(operand, Value):
            yield operand, batched(term, operand)


def dot(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.dot`` of at most two axes."""
    if any(len(getattr(item, "shape", ())) > 2 for item in v.args[:2]):
        raise unsupported(v)
    a, b = v.args[:2]
    yield from _product(here, v, a, b, here.full(d, v))


def outer(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.outer(a, b)``: ``d_a = d @ b`` and ``d_b = a @ d``."""
    a, b = v.args[:2]
    d = here.full(d, v)
    A, B = here.forward.operand(a), here.forward.operand(b)
    yield from given((a, terms.matmul(d, conj(B))), (b, terms.matmul(conj(A), d)))


def einsum(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The letters of the result and of the other operands, summed to those of the operand."""
    text, *operands = v.args
    if not isinstance(text, str) or "." in text:
        raise unsupported(v)
    left, arrow, out = text.replace(" ", "").partition("->")
    groups = left.split(",")
    if not arrow:
        letters = sorted(set(left) - {","})
        out = "".join(x for x in letters if left.count(x) == 1)
    d = here.full(d, v)
    for k, (own, operand) in enumerate(zip(groups, operands, strict=True)):
        rest = [(g, o) for j, (g, o) in enumerate(zip(groups, operands, strict=True)) if j != k]
        around = set(out).union(*(set(g) for g, _ in rest))
        if len(set(own)) < len(own) or not set(own) <= around:
            raise unsupported(v)
        if isinstance(operand, Value):
            others = [conj(here.forward.operand(o)) for _, o in rest]
            pattern = ",".join([out, *(g for g, _ in rest)]) + "->" + own
            first = number(None, f'"{pattern}"')
            is_complex = d.is_complex or any(o.is_complex for o in others)
            made = call("np.einsum", first, d, *others, shape=operand.shape,
                        is_complex=is_complex)  # fmt: skip
            yield operand, made if operand.kind == "c" else terms.real(made)


def inverse(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_A = -Y.T @ d @ Y.T`` for ``Y = inv(A)``."""
    turned = conj(terms.transposed(of(v)))
    yield v.args[0], terms.neg(terms.matmul(terms.matmul(turned, here.full(d, v)), turned))


def solve(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_b`` solves ``A.T d_b = d``, and ``d_A = -d_b @ y.T``, for the solution of ``A y = b``."""
    a, b = v.args
    A, B = here.forward.operand(a), here.forward.operand(b)
    if len(A.shape) != len(B.shape):
        raise unsupported(v)
    turned = conj(terms.transposed(A))
    d_b = call("np.linalg.solve", turned, here.full(d, v), shape=v.shape)
    d_a = terms.neg(terms.matmul(d_b, conj(terms.transposed(of(v)))))
    for operand, term in ((a, d_a), (b, d_b)):
        if isinstance(operand, Value):
            yield operand, batched(term, operand)


def _new_axis(term: Term, axis: int) -> Term:
    at = (*[slice(None)] * axis, None)
    return terms.index(term, at, (*term.shape[:axis], 1, *term.shape[axis:]))


PRODUCTS: dict[str, Rule] = {
    "np.matmul": matmul,
    "np.dot": dot,
    "np.outer": outer,
    "np.einsum": einsum,
    "np.linalg.inv": inverse,
    "np.linalg.solve": solve,
}
"""By operation."""
