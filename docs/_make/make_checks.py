"""Write docs/reference/checks.md from the checks: ``python docs/_make/make_checks.py``."""

from __future__ import annotations

from pathlib import Path

from bpttcheck.verify.checks import CHECKS

PAGE = Path(__file__).resolve().parents[1] / "reference" / "checks.md"

INTRODUCTION = """\
# Checks

`bpttcheck.check` runs those that apply to a cell, a layer or a function; `checks=["masking", ...]`
(`--checks`, `checks =` in `[tool.bpttcheck]`) selects some. `bpttcheck explain NAME` prints the same text.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, check in CHECKS.items():
        parts.append(f"## `{name}`\n\n{check.text.replace('``', '`')}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
