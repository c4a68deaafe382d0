"""Draw the failure that README shows, light and dark: ``python docs/_make/make_picture.py``.

The cell is the wrong one of the tutorial; the text is what ``bpttcheck verify`` prints of it, without the
table of checks.
"""

from __future__ import annotations

import re
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "docs" / "_assets"
TUTORIAL = ROOT / "docs" / "tutorial" / "index.md"
COMMAND = "$ bpttcheck verify leaky.py:Leaky"
THEMES = {
    "light": {"paper": "#f6f8fa", "frame": "#d0d7de", "ink": "#1f2328", "dim": "#59636e",
              "31": "#b3261e", "1": "#1f2328"},
    "dark": {"paper": "#161b22", "frame": "#30363d", "ink": "#e6edf3", "dim": "#9198a1",
             "31": "#ff8a80", "1": "#ffffff"},
}  # fmt: skip
NO_BREAK = "\N{NO-BREAK SPACE}"  # other spaces collapse
WIDE, HIGH, MARGIN = 7.8, 19, 16
_ANSI = re.compile(r"\x1b\[([\d;]*)m")


def printed() -> list[str]:
    """The lines of the report, with ANSI colours."""
    import bpttcheck
    from bpttcheck.cli.terminal import paint

    block = re.search(r'```python title="leaky.py"\n(.*?)```', TUTORIAL.read_text(), re.DOTALL)
    assert block is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "leaky.py").write_text(block[1])
        sys.path.insert(0, folder)
        from leaky import Leaky  # pyright: ignore[reportMissingImports]

        text = str(bpttcheck.check(Leaky(), raises=False))
    lines = paint(text).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("1. "))
    last = next(i for i, line in enumerate(lines) if "times the error bar" in line)
    return [COMMAND, lines[0], "", *lines[first : last + 1]]


def drawn(lines: list[str], theme: dict[str, str]) -> str:
    """The lines as an SVG."""
    columns = max(len(_ANSI.sub("", line)) for line in lines)
    width, height = columns * WIDE + 2 * MARGIN, len(lines) * HIGH + 2 * MARGIN
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + (i + 0.75) * HIGH:.0f}">{_spans(line, theme)}</text>'
        for i, line in enumerate(lines)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" aria-label="a failed verification">\n'
        f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8" '
        f'fill="{theme["paper"]}" stroke="{theme["frame"]}"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" '
        f'font-size="13" fill="{theme["ink"]}">\n' + "\n".join(rows) + "\n</g>\n</svg>\n"
    )


def _spans(line: str, theme: dict[str, str]) -> str:
    """One line; every piece has the width that its letters have in the terminal."""
    spans, codes, column = "", "", 0
    for number, piece in enumerate(_ANSI.split(line)):
        if number % 2:
            codes = "" if piece in ("", "0") else f"{codes};{piece}"
        elif piece:
            parts = codes.split(";")
            colour = next((theme[c] for c in sorted(parts, key="1".__eq__) if c in theme), None)
            style = f' fill="{colour}"' if colour else ""
            style += ' font-weight="bold"' if "1" in parts else ""
            x = MARGIN + column * WIDE
            spans += (
                f'<tspan x="{x:.1f}" textLength="{len(piece) * WIDE:.1f}"{style}>'
                f"{escape(piece).replace(' ', NO_BREAK)}</tspan>"
            )
            column += len(piece)
    return spans


def main() -> None:
    """Write both pictures."""
    lines = printed()
    for name, theme in THEMES.items():
        (ASSETS / f"failure-{name}.svg").write_text(drawn(lines, theme))


if __name__ == "__main__":
    main()
