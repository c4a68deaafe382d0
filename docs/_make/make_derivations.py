"""Write docs/explanation/derivations.md: ``python docs/_make/make_derivations.py``.

It judges the published formulas.

Ends with an error if a system that the texts describe is missing or wrong, or a corrected formula is
not right.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "derivations.md"


def page() -> tuple[str, list[str]]:
    """The whole page, and what is not as it should be."""
    from examples.derivations import page as made
    from examples.derivations.grid import kinds
    from examples.derivations.judge import judge_all

    judged = judge_all(made.FORMULAS)
    table, broken = made.systems()
    for formula in made.FORMULAS:
        correction = formula.correction
        if correction is not None and judged[formula.code][correction.words].verdict != "right":
            broken.append(f"{formula.code}: the corrected formula is not right")
    parts = [made.INTRODUCTION.format(kinds=sum(1 for _ in kinds())), made.table(judged) + "\n"]
    parts.append(f"What the search found that the eye did not:\n\n{made.disagreements()}\n")
    for letter, text in made.TEXTS.items():
        title, _, rest = str(text.__doc__).partition("\n")
        parts.append(
            f"## Text {letter}\n\n{title.partition(', ')[2]}\n{rest.strip()}".strip() + "\n"
        )
        parts += [made.section(formula, judged[formula.code]) for formula in text.FORMULAS]
    parts.append(f"## The systems that the texts describe\n\n{table}\n")
    return "\n".join(parts), broken


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    text, faults = page()
    PAGE.write_text(text)
    if faults:
        sys.exit("\n".join(faults))
