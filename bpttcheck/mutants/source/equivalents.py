"""Changes of the built-in cells that change no gradient, each with its proof.

A mutant that no check can find says nothing about the checks. It must be known as such, and nothing
else may hide behind that: the tests hold this table to random problems in both directions.
"""

from __future__ import annotations

import re
from typing import Any

_ONE = "the derivative of the identity is 1.0 whatever its argument, and v * 1.0 is v in every bit"
_ITSELF = "h = f(z) is z itself, in every bit, when f is the identity"
_SAME_SIDE = (
    "f' sees only on which side of a kink its argument is, and h = f(z) is on the same side as z:"
    " h > 0 where z > 0 for relu and leaky_relu, |h| < 1 where |z| < 1 for hard_tanh"
)
_FREE = "this branch runs only if teacher_forced is False, and here it is True"
_FORCED = "this branch runs only if teacher_forced is True, and here it is False"

_IDENTITY_OF_ELMAN = {
    "without the factor f.derivative(z) in …": _ONE,
    "z -> h in `d_z = d_h_new * f.derivative(z)`": _ONE,
    "d_z -> d_h_new in …": _ONE,
}
_IDENTITY_OF_JORDAN = {
    "without the factor f.derivative(z) in …": _ONE,
    "z -> h in `d_z = d_h * f.derivative(z)`": _ONE,
    "d_z -> d_h in …": _ONE,
    "z <-> h in `x_in, o, z, h, q = cache`": _ITSELF,
    "h -> z in `'V': d_q.T @ h`": _ITSELF,
}
_SAME_SIDE_OF_JORDAN = {"z -> h in `d_z = d_h * f.derivative(z)`": _SAME_SIDE}
_IDENTITY_OF_OUTPUT = {
    "without the factor g.derivative(q) in …": _ONE,
    "q -> o in `d_q = d_out * g.derivative(q)`": _ONE,
    "d_q -> d_out in …": _ONE,
}

EQUIVALENTS: dict[str, dict[str, str]] = {
    "Elman(activation='identity')": _IDENTITY_OF_ELMAN,
    "Jordan(…, activation='identity', …)": _IDENTITY_OF_JORDAN,
    "Jordan(…, activation='relu', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, activation='leaky_relu', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, activation='hard_tanh', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, output_activation='identity', …)": _IDENTITY_OF_OUTPUT,
    # x_in has the shape of q only if there are as many inputs as outputs.
    "Jordan(n_out=None, …, output_activation='identity', teacher_forced=False)": {
        "q -> x_in in `d_q = d_out * g.derivative(q)`": _ONE,
    },
    "Jordan(…, teacher_forced=True)": {"… in `d_out = d_y + d_state`": _FREE},
    "Jordan(…, teacher_forced=False)": {
        "… in `d_x = np.concatenate([d_x, d_state], axis=-1)`": _FORCED,
    },
}
"""For a built-in cell, printed by ``repr``: what was changed, without its line, and why nothing
follows from it. An ellipsis stands for anything."""


def why_equivalent(target: Any, title: str) -> str:
    """Why a change of ``target.step_vjp`` changes no gradient.

    Args:
        target: a cell.
        title: what was changed: ``"z -> h in `d_z = d_h_new * f.derivative(z)`"``.

    Returns:
        The proof; ``""`` if none is known. Only the built-in cells have any: a subclass may have
        another forward step.
    """
    if not str(type(target).__module__).startswith("bpttcheck.cells."):
        return ""
    for cell, changes in EQUIVALENTS.items():
        if matches(cell, repr(target)):
            for change, reason in changes.items():
                if matches(change, title):
                    return reason
    return ""


def matches(pattern: str, words: str) -> bool:
    """True if ``words`` is ``pattern`` with something in place of every ellipsis."""
    pieces = (re.escape(piece) for piece in pattern.split("…"))
    return re.fullmatch(".*".join(pieces), words) is not None
