"""Finds the single edit of one path inside the step that gives the hand-derived gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import activations
from bpttcheck.blocks import D_X, Block, d_previous_state, of_params, of_state
from bpttcheck.diagnose.base import SEQUENCE, Array, Evidence, FailingExample
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_graph.paths import EditSite, Paths

CUT, DOUBLED, NEGATED, DERIVATIVE, TRANSPOSED = (
    "cut", "doubled", "negated", "derivative", "transposed",
)  # fmt: skip

_KEY = "graph_edits"


@dataclass(frozen=True)
class GraphEdit:
    """One change.

    Args:
        kind: one of the constants of this module.
        text: the operation in words.
        where: the line of user code.
        instead: the formula used instead of the derivative, or ``""``.
    """

    kind: str
    text: str
    where: str
    instead: str = ""


def best_edit(evidence: Evidence, kind: str) -> tuple[GraphEdit, float] | None:
    """The edit of this kind that explains every example, and its residual.

    First all blocks together, then the block at hand alone.
    """
    if evidence.mode == SEQUENCE or not evidence.examples:
        return None
    try:
        tables = [_table(evidence, example) for example in evidence.examples]
    except BpttcheckError:
        return None
    candidates = [key for key in tables[0] if key[0] == kind]
    for wide in (True, False):
        fitting: list[tuple[float, Any]] = []
        for key in candidates:
            residual = _residual(evidence, tables, key, wide)
            if residual is not None:
                fitting.append((residual, key))
        if fitting:
            residual, key = min(fitting, key=lambda pair: pair[0])
            by_example = zip(evidence.examples, tables, strict=True)
            evidence.assume({id(s): table[key] for s, table in by_example})
            return GraphEdit(*key[:1], *key[2:]), residual
    return None


def _residual(
    evidence: Evidence, tables: list[dict[Any, dict[str, Array]]], key: Any, wide: bool
) -> float | None:
    by_example = {
        id(s): t.get(key) for s, t in zip(evidence.examples, tables, strict=True)
    }  # fmt: skip

    def predict(example: FailingExample) -> Mapping[str, Array] | None:
        found = by_example[id(example)]
        if found is None or wide:
            return found
        return {evidence.block: found[evidence.block]}

    return evidence.fits_all(predict)


def _table(evidence: Evidence, example: FailingExample) -> dict[Any, dict[str, Array]]:
    """Change -> the gradient that it gives, block by block; made once for each problem."""
    made: dict[int, Any] = evidence.notes.setdefault(_KEY, {})
    if id(example) not in made:
        made[id(example)] = example.run.jax.remember(
            _KEY, example.problem, lambda: dict(_changes(example))
        )
    return made[id(example)]


def _changes(example: FailingExample) -> Iterator[tuple[Any, dict[str, Array]]]:
    p = example.problem
    paths = example.run.jax.paths(p)
    point = (p.params, p.state0, p.xs[0])
    todo: list[tuple[Any, EditSite, Array | None]] = []
    number = _numbered(paths)
    twice: set[Any] = set()
    for site in paths.sites("edge"):
        key = (CUT, _at(site, number), _named(site), site.where, "")
        if _is_read_twice(paths, site):
            twice.add(key)
        todo.append((key, site, None))
    for site in paths.sites("product"):
        operation, side = site.place
        weight = paths.graph.shapes[paths.graph.ops[operation].ins[side]]
        text = "weight" if len(weight) == 2 else "matrix"
        todo.append(((TRANSPOSED, _at(site, number), text, site.where, ""), site, None))
    for kind in ("to", "from"):
        for site in paths.sites(kind):
            key = (TRANSPOSED, (*_at(site, number), kind), "cotangent", site.where, "")
            todo.append((key, site, None))
    for site, factor, instead in _derivatives(paths, point):
        key = (DERIVATIVE, _at(site, number), site.text, site.where, instead)
        todo.append((key, site, factor))
    found = paths.gradients(point, (p.d_state, p.d_ys[0]), [(s, f) for _, s, f in todo])
    for (key, _, _), gradients in zip(todo, found, strict=True):
        blocks = blocks_of(example, gradients)
        if key[0] != CUT:
            yield key, blocks
            continue
        # The gradient is linear in the factor on one edge.
        right = example.right
        share = {name: right[name] - blocks[name] for name in right}
        if key in twice:
            # An operation that reads a value twice has two such edges: together they are the path.
            (operation, _), text = key[1:3]
            yield (CUT, key[1], f"half of {text}", *key[3:]), blocks
            key = (CUT, (operation, "both"), *key[2:])
            share = {name: 2 * part for name, part in share.items()}
        for kind, factor in ((CUT, -1), (DOUBLED, 1), (NEGATED, -2)):
            yield (kind, *key[1:]), {n: right[n] + factor * share[n] for n in right}


def _is_read_twice(paths: Paths, site: EditSite) -> bool:
    operation, operand = site.place
    ins = paths.graph.ops[operation].ins
    return any(ref == ins[operand] for j, ref in enumerate(ins) if j != operand)


def _at(site: EditSite, number: list[int]) -> tuple[int, int]:
    operation, operand = site.place
    return number[operation], operand


def _numbered(paths: Paths) -> list[int]:
    """The index of each operation among those of its kind on its line.

    The position in the traced step does not identify it: where a size is 1 it is another.
    """
    met: Counter[tuple[str, str]] = Counter()
    found: list[int] = []
    for op in paths.graph.ops:
        key = (op.primitive.name, op.where)
        found.append(met[key])
        met[key] += 1
    return found


def _named(site: EditSite) -> str:
    words = {
        "dot_general": "the matrix product", "mul": "the product", "add": "the sum",
        "sub": "the difference", "div": "the quotient",
    }  # fmt: skip
    return words.get(site.text, site.text)


def blocks_of(example: FailingExample, gradients: tuple[Any, Any, Array]) -> dict[str, Array]:
    """``(d_params, d_state, d_x)`` by the names of blocks."""
    d_params, d_state, d_x = gradients
    found = {**of_params(d_params), **of_state(d_previous_state(), d_state), D_X: d_x}
    return {name: found[Block(name)] for name in example.right}


def _derivatives(paths: Paths, point: Any) -> Iterator[tuple[EditSite, Array, str]]:
    """Common wrong local derivatives, at each function of the step."""
    for site, (z, v) in zip(paths.sites("function"), paths.values(*point), strict=True):
        with np.errstate(all="ignore"):
            made = [*mistakes(z, v), *_mixed(v, paths.like(site.index, *point))]
            for factor, instead in made:
                if np.isfinite(factor).all():
                    yield site, factor, instead


def mistakes(z: Array, v: Array) -> Iterator[tuple[Array, str]]:
    """What is written for the derivative of ``v = f(z)`` by mistake: values and formula."""
    yield np.ones_like(v), "missing (a factor of 1)"
    for u, name in ((v, "h"), (z, "z")):
        yield 1 - u**2, f"1 - {name}**2"
        yield u * (1 - u), f"{name} * (1 - {name})"
        yield 1 - u, f"1 - {name}"
        yield (1 - u) ** 2, f"(1 - {name})**2"
        yield u, f"{name}"
        yield u**2, f"{name}**2"
        yield -(u**2), f"-{name}**2"
        yield 1 + u**2, f"1 + {name}**2"
        yield 1 - u**3, f"1 - {name}**3"
        yield 2 - u**2, f"2 - {name}**2"
        yield -1 - u**2, f"-1 - {name}**2"
        yield 1 - 2 * u, f"1 - 2 * {name}"
        yield u * (1 + u), f"{name} * (1 + {name})"
        yield u * (2 - u), f"{name} * (2 - {name})"
        yield u * (-1 - u), f"{name} * (-1 - {name})"
        yield u * (1 - u**2), f"{name} * (1 - {name}**2)"
        yield 1 - np.abs(u), f"1 - |{name}|"
    for name, activation in activations.ACTIVATIONS.items():
        yield activation.derivative(z), f"that of {name}"
    for name, activation in activations.ACTIVATIONS.items():
        yield activation.derivative(v), f"that of {name} at h, not at its argument z"


def _mixed(v: Array, others: list[tuple[str, Array]]) -> Iterator[tuple[Array, str]]:
    """Formulas of the right form with another quantity of the step instead of ``h``."""
    for where, u in others:
        name = f"u from {where}"
        yield u * (1 - v), f"u * (1 - h), {name}"
        yield v * (1 - u), f"h * (1 - u), {name}"
        yield u * (1 - u), f"u * (1 - u), {name}"
        yield 1 - u**2, f"1 - u**2, {name}"
        for function, activation in activations.ACTIVATIONS.items():
            if function in ("tanh", "sigmoid"):
                yield activation.derivative(u), f"that of {function} at u, {name}"


__all__ = ["CUT", "DERIVATIVE", "DOUBLED", "NEGATED", "TRANSPOSED", "GraphEdit", "best_edit"]
