"""How a hand-derived JAX rule is asked for gradients in training, beside all of them at once.

The forward pass that goes with the rule must compute the function. The gradient must not depend on
which inputs and results take part, of which a rule with ``symbolic_zeros=True`` is told, and a
batch of gradients under ``vmap`` must be that of its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.adapt.programs import compiled
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError

# Larger cases have the same code and cost more.
_SMALL = 2048
# What rows of a batch are multiplied by: arguments, and cotangents.
_ARGUMENTS, _COTANGENTS = (1.0, 0.75), (1.0, -2.0)

Ask = Callable[[list[Any], list[Any]], tuple[list[Any], list[Any]]]


@dataclass(frozen=True)
class JaxPass:
    """A pass forward of a rule, from its float leaves to its float results.

    Args:
        function: what it computes, by the rule.
        labels: what the gradient of each leaf is called.
        names: what each result is called.
    """

    function: Callable[[list[Any]], list[Any]]
    labels: Sequence[str]
    names: Sequence[str]

    def gradients(
        self,
        leaves: list[Any],
        slopes: list[Any],
        wanted: Sequence[int] | None = None,
        used: Sequence[int] | None = None,
    ) -> list[Any]:
        """The gradients of the wanted leaves, where the used results alone are in the loss."""
        import jax

        asked = range(len(leaves)) if wanted is None else wanted
        taken = range(len(slopes)) if used is None else used

        def of_some(some: list[Any]) -> list[Any]:
            moved = dict(zip(asked, some, strict=True))
            results = self.function([moved.get(i, leaf) for i, leaf in enumerate(leaves)])
            return [results[j] for j in taken]

        values, pull = jax.vjp(of_some, [leaves[i] for i in asked])
        cast = [slopes[j].astype(v.dtype) for j, v in zip(taken, values, strict=True)]
        return pull(cast)[0]


@dataclass(frozen=True)
class _Way:
    """A way to ask for gradients that are known already.

    Args:
        text: how it is asked, for messages.
        ask: the gradients in that way, and as they should be.
        labels: what they are called.
        batched: whether it is under ``vmap``, which a rule need not support.
    """

    text: str
    ask: Ask
    labels: Sequence[str]
    batched: bool = False


def is_small(leaves: Sequence[Array], slopes: Sequence[Array]) -> bool:
    """Whether a case shows what it is asked, and costs little."""
    size = sum(leaf.size for leaf in leaves)
    return 0 < size <= _SMALL and all(slope.any() for slope in slopes)


def require_conduct(
    one: JaxPass, leaves: list[Array], slopes: list[Array], told: bool
) -> tuple[str, ...]:
    """Ask a rule in every way.

    Args:
        one: the pass.
        leaves: its float leaves.
        slopes: the cotangents of its results.
        told: whether the rule is told what takes part (``symbolic_zeros=True``).

    Returns:
        What it does not support, as sentences.

    Raises:
        ContractError: one way fails or gives another gradient; it says which.
    """
    ways, remarks = [*(_parts(one) if told else ()), *_batches(one)], list[str]()
    for way, answer in zip(ways, _answers(ways, leaves, slopes), strict=True):
        if isinstance(answer, Exception):
            text = f"{type(answer).__name__}: {_first_line(answer)}"
            if not way.batched:
                raise ContractError(
                    f"the rule raised {text} {way.text}, expected the same gradient", method="bwd"
                ) from answer
            remarks.append(f"the rule was not judged {way.text}: it raised {text}")
            continue
        for label, found, expected in zip(way.labels, *answer, strict=True):
            if _apart(np.asarray(found), np.asarray(expected)):
                raise ContractError(
                    f"the rule gives another {label} {way.text}, expected the same as otherwise",
                    method="bwd",
                    item=label,
                )
    return tuple(remarks)


def _answers(
    ways: Sequence[_Way], leaves: list[Array], slopes: list[Array]
) -> list[tuple[list[Any], list[Any]] | Exception]:
    """What is found in each way and what is expected, or what was raised."""
    import jax

    def together(leaves: list[Any], slopes: list[Any]) -> list[tuple[list[Any], list[Any]]]:
        return [way.ask(leaves, slopes) for way in ways]

    try:  # one program costs less than several
        program = compiled(jax.jit(together).trace(leaves, slopes))
        return jax.tree.map(np.asarray, program(leaves, slopes))
    except Exception as error:
        if len(ways) == 1:
            return [error]
    return [_answers([way], leaves, slopes)[0] for way in ways]


def _parts(one: JaxPass) -> Generator[_Way]:
    """With one input alone perturbed, and with one result alone in the loss."""
    if len(one.labels) > 1:
        for i, label in enumerate(one.labels):
            yield _Way(
                f"where only the input of {label} is differentiated",
                lambda leaves, slopes, i=i: (
                    one.gradients(leaves, slopes, [i]),
                    [one.gradients(leaves, slopes)[i]],
                ),
                [label],
            )
    if len(one.names) > 1:
        yield _Way(
            "summed over losses of one result each",
            lambda leaves, slopes: (
                _summed(one.gradients(leaves, slopes, None, [j]) for j in range(len(slopes))),
                one.gradients(leaves, slopes),
            ),
            one.labels,
        )


def _batches(one: JaxPass) -> Generator[_Way]:
    """Under ``vmap``: of the cotangents alone, and of everything."""
    import jax

    def over_cotangents(leaves: list[Any], slopes: list[Any]) -> tuple[list[Any], list[Any]]:
        pull = lambda some: one.gradients(leaves, some)  # noqa: E731
        rows = _rows(slopes, _COTANGENTS)
        return jax.vmap(pull)(_stacked(rows)), _stacked([pull(row) for row in rows])

    def over_all(leaves: list[Any], slopes: list[Any]) -> tuple[list[Any], list[Any]]:
        rows, others = _rows(leaves, _ARGUMENTS), _rows(slopes, _COTANGENTS)
        found = jax.vmap(one.gradients)(_stacked(rows), _stacked(others))
        each = [one.gradients(a, b) for a, b in zip(rows, others, strict=True)]
        return found, _stacked(each)

    yield _Way(
        "under vmap over cotangents, as of jacrev", over_cotangents, one.labels, batched=True
    )
    yield _Way("under vmap(grad), as of one example each", over_all, one.labels, batched=True)


def _rows(leaves: list[Any], factors: Sequence[float]) -> list[list[Any]]:
    return [[leaf * np.asarray(f, leaf.dtype) for leaf in leaves] for f in factors]


def _stacked(rows: Sequence[list[Any]]) -> list[Any]:
    import jax.numpy as jnp

    return [jnp.stack(column) for column in zip(*rows, strict=True)]


def _summed(parts: Any) -> list[Any]:
    return [
        sum(itertools.islice(column, 1, None), column[0]) for column in zip(*parts, strict=True)
    ]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _apart(found: Array, expected: Array) -> bool:
    """Whether they differ in the first half of their digits: sums may have another order."""
    finite = np.isfinite(found) & np.isfinite(expected)
    if (np.isnan(found) != np.isnan(expected)).any():
        return True
    scale = np.abs(expected[finite]).max(initial=0.0)
    gap = np.abs(found[finite] - expected[finite]).max(initial=0.0)
    return bool(gap > np.sqrt(np.finfo(expected.dtype).eps) * scale)


# A nudged input may move a result by up to this many times what rounding alone does, since it
# stands for the rounding of every operation in between.
_ROUNDING = 1e3
_NUDGES = 4


def check_forward_value(
    found: Sequence[Array],
    expected: Sequence[Array],
    labels: Sequence[str],
    leaves: Sequence[Array],
    primal: Callable[[list[Array]], Sequence[Array]],
) -> None:
    """Compare the values of a rule's forward pass with the primal's.

    A value departs if it is further away than half the digits of its dtype; then the primal runs
    again on inputs nudged by rounding, and what that moves is forgiven (chaos, kinks,
    cancellation). Entries that are not finite on either side are not compared.

    Args:
        found: the rule's floating results.
        expected: the primal's floating results.
        labels: what each of them is called.
        leaves: the inputs.
        primal: the primal's floating results at other inputs.

    Raises:
        ContractError: a value departs.
    """
    excess = [_excess(f, e) for f, e in zip(found, expected, strict=True)]
    if not any((e > 0).any() for e in excess):
        return
    rng = np.random.default_rng(0)
    for _ in range(_NUDGES):
        moved = primal([_nudge(leaf, rng) for leaf in leaves])
        for e, m, value in zip(excess, moved, expected, strict=True):
            with np.errstate(all="ignore"):
                spread = np.nan_to_num(np.abs(m - value), nan=np.inf)
            e -= _ROUNDING * spread
    for f, e, label, x in zip(found, expected, labels, excess, strict=True):
        if (x > 0).any():
            entry = tuple(int(i) for i in np.unravel_index(int(x.argmax()), x.shape))
            raise ContractError(
                f"the rule's fwd returns {label}{list(entry)} = {float(f[entry])!r}, expected "
                f"{float(e[entry])!r}, the value of the undecorated function; make fwd compute the "
                "same function, or give the function that it does compute as primal=",
                method="fwd",
                item=label,
            )


def _excess(found: Array, expected: Array) -> Array:
    info = np.finfo(expected.dtype)
    finite = np.isfinite(found) & np.isfinite(expected)
    with np.errstate(all="ignore"):
        gap = np.where(finite, np.abs(found - expected), 0.0)
        size = np.max(np.where(finite, np.abs(expected), 0.0), initial=0.0)
        return gap - (float(info.eps) ** 0.5 * size + float(info.tiny) ** 0.5)


def _nudge(leaf: Array, rng: np.random.Generator) -> Array:
    if not is_float(leaf):
        return leaf
    eps = float(np.finfo(leaf.dtype).eps)
    factor = 1 + 4 * eps * rng.uniform(-1, 1, leaf.shape)
    return (leaf * factor).astype(leaf.dtype)
