"""Whether a rule's own forward pass computes the same function as the primal it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    import numpy as np

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
    import numpy as np

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
    import numpy as np

    info = np.finfo(expected.dtype)
    finite = np.isfinite(found) & np.isfinite(expected)
    with np.errstate(all="ignore"):
        gap = np.where(finite, np.abs(found - expected), 0.0)
        size = np.max(np.where(finite, np.abs(expected), 0.0), initial=0.0)
        return gap - (float(info.eps) ** 0.5 * size + float(info.tiny) ** 0.5)


def _nudge(leaf: Array, rng: np.random.Generator) -> Array:
    import numpy as np

    if not is_float(leaf):
        return leaf
    eps = float(np.finfo(leaf.dtype).eps)
    factor = 1 + 4 * eps * rng.uniform(-1, 1, leaf.shape)
    return (leaf * factor).astype(leaf.dtype)
