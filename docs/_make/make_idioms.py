"""Write docs/reference/idioms.md from the table of NumPy idioms: ``python docs/_make/make_idioms.py``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "oracles" / "numpy_idioms.py"
PAGE = ROOT / "docs" / "reference" / "idioms.md"

INTRODUCTION = """\
# What NumPy can the checker trace?

JAX differentiates your own `step`, the NumPy code that you wrote. While it is traced, arrays are
replaced by objects that behave as NumPy's and record what is computed with them. Nothing has to be
imported or subclassed, and nothing in your module changes.

What works is nearly everything whose shape does not depend on values: arithmetic, slicing, writing
into slices and through views, `out=` and `where=`, buffers made with `np.empty` and filled, matrix
products, `einsum`, reductions, sorting, `scipy.special`, `np.linalg`, `np.fft`. Views are views and
copies are copies, exactly where NumPy makes them. dtypes follow NumPy's rules.

What cannot work is code that needs the numbers themselves: an `if` on a value, `float(z)`,
`math.exp`, `z[z > 0]` with its unknown length, C extensions. The tracer then *declines*: it names
the line, the call, and what to write instead, and the check goes on with finite differences alone.
It never guesses. The traced step is also compared with the native one on every case that is checked.

A few rules of thumb:

- Write `np.where(condition, a, b)` for a branch, `np.maximum` for `max`.
- `z[mask] = 0`, `z[mask] *= 0.1` and `out[mask] = f(z[mask])` work; any other use of `z[mask]` does not.
- Make the arrays that you fill inside the step (`np.empty`, `np.zeros_like`), not in `__init__`.
- An array kept outside, such as a constant table, can be read freely.
- Where reshaping gives a view or a copy depending on how an *input* lies in memory, reading works
  and writing is declined; a `.copy()` before it makes it a copy.
- If a step cannot be traced, pass `reference=` with the same step written in JAX.

The tables below are the project's own test: every row is run natively and traced, values and
gradients are compared, and every refusal is checked for its line and its remedy.
{counts}

In all of them `params` holds `U (H, N)`, `W (H, H)`, `b (H,)` and the number `s`; `h` is `(B, H)`, `x` is
`(B, N)`, and `pre(params, h, x)` is `x @ U.T + h @ W.T + b`.
"""


def load_table():
    """The module that holds the table, loaded from its file."""
    if "numpy_idioms" not in sys.modules:
        spec = importlib.util.spec_from_file_location("numpy_idioms", TABLE)
        sys.modules["numpy_idioms"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["numpy_idioms"]


def page() -> str:
    """The page as Markdown."""
    table = load_table()
    traced = sum(idiom.remedy is None for idiom in table.IDIOMS)
    counts = (
        f"{len(table.IDIOMS)} idioms: {traced} trace, {len(table.IDIOMS) - traced} are declined."
    )
    parts = [INTRODUCTION.format(counts=counts)]
    for section in table.SECTIONS:
        rows = [row(idiom) for idiom in table.IDIOMS if idiom.section == section]
        parts.append(
            f"## {section}\n\n| idiom | | write instead |\n|---|---|---|\n" + "\n".join(rows)
        )
    return "\n\n".join(parts) + "\n"


def row(idiom) -> str:
    """One line of a table: the body of the step function, and what becomes of it."""
    lines = inspect.getsource(idiom.function).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("def ")) + 1
    body = textwrap.dedent("\n".join(lines[start:])).splitlines()
    code = "<br>".join(code_span(line) for line in body if line.strip())
    if idiom.remedy is None:
        return f"| {code} | traces | |"
    remedy = idiom.remedy.replace("|", "\\|") or "(NumPy raises an error, too)"
    return f"| {code} | declined | {remedy} |"


def code_span(line: str) -> str:
    """A line of code inside a Markdown table."""
    indent = len(line) - len(line.lstrip())
    return "&nbsp;" * indent + "`" + line.strip().replace("|", "\\|") + "`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
