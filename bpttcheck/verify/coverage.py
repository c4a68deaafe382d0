"""Which bugs a set of cases could not have shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpttcheck.verify.results import Case

_SHORT = 12

_BLIND_SPOTS: tuple[tuple[Callable[[Sequence[Case]], bool], str], ...] = (
    (lambda cases: all(c.B == 1 for c in cases), "B = 1 only: batch-reduction bugs cannot show"),
    (
        lambda cases: all(c.T == 1 for c in cases),
        "T = 1 only: bugs of the loop over time cannot show",
    ),
    (
        lambda cases: 1 < max(c.T for c in cases) <= _SHORT,
        "no long sequence: a truncation after more than {T} steps cannot show",
    ),
    (
        lambda cases: all(c.n_hidden == 1 for c in cases),
        "n_hidden = 1 only: transposed matrices cannot show",
    ),
    (
        lambda cases: not any(1 < c.n_in == c.n_hidden for c in cases),
        "n_in and n_hidden never coincide: what is transposed only where a matrix is square cannot "
        "show",
    ),
    (
        lambda cases: all(c.n_in == c.n_hidden for c in cases),
        "n_in = n_hidden only: sizes mixed up cannot show",
    ),
    (
        lambda cases: not any(c.regime == "large_cotangents" for c in cases),
        "no large cotangents: a clip that was left on cannot show",
    ),
    (
        lambda cases: not any(c.regime == "saturated" for c in cases),
        "no saturated units: bugs of saturation cannot show",
    ),
    (
        lambda cases: not any(c.regime in ("at_kinks", "near_kinks") for c in cases),
        "no value at a kink: a wrong branch there cannot show",
    ),
    (
        lambda cases: all(c.mask == "none" for c in cases),
        "no masks: a mask that is ignored cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float64" for c in cases),
        "float64 only: what overflows in float32 cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float32" for c in cases),
        "float32 only: relative errors below 1e-5 cannot show",
    ),
)


def hidden(cases: Sequence[Case]) -> tuple[str, ...]:
    """One sentence for each kind of bug that none of the cases could have shown.

    Args:
        cases: the cases of a run.
    """
    if not cases:
        return ()
    longest = max(c.T for c in cases)
    return tuple(text.format(T=longest) for blind, text in _BLIND_SPOTS if blind(cases))
