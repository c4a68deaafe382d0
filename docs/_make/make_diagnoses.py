"""Write docs/reference/diagnoses.md from the diagnoses: ``python docs/_make/make_diagnoses.py``."""

from __future__ import annotations

from pathlib import Path

from bpttcheck import diagnose

PAGE = Path(__file__).resolve().parents[1] / "reference" / "diagnoses.md"

INTRODUCTION = """\
# What is wrong with my gradient?

A finding carries a diagnosis where one fits. Each is a formula for the *wrong* gradient in terms of the
right one, and it fits only if rounding explains the residual, by the same error bars by which the
gradient was found wrong. JAX supplies the other gradients: with a cotangent left out, with the parameters
untied in time, with the carry cut, with one path inside the step cut or one local derivative replaced.
Several problems of different sizes must agree. If nothing fits, no diagnosis is reported.

A function, or a layer, has no step of its own. Its forward pass is traced whole, and one mistake is made
at every step of the loop alike: a path cut, a factor or a derivative replaced, a quantity of the step
before or after used, a sum overwritten, the loop run forwards. A mistake that explains several wrong
gradients and leaves the right ones right comes before one that fits a single gradient. What another
mistake beside it has done to one gradient is told, too. Where JAX does not trace the code, the right
gradient of small problems comes from finite differences, entry by entry.

`bpttcheck explain CODE` prints the same pages.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for code in diagnose.CODES:
        one = diagnose.rule(code).page
        parts.append(
            f"## `{code}`\n\n{one.meaning}\n\n"
            f"The formula:\n\n```\n{one.formula}\n```\n\n"
            f"The usual mistake:\n\n```python\n{one.mistake}\n```\n\n"
            f"Right:\n\n```python\n{one.right}\n```\n\n"
            f"{one.seen}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
