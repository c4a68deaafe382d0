"""Run the code that pages show, as a reader would.

In a page, in order and in one folder:

- a block of ``python`` is executed, all in one namespace; one with ``title="name.py"`` is written to that
  file; with ``title="name.py" replace`` the part above ``---`` is replaced by the part below;
- a block of ``console`` is a command and what it prints, in which ``...`` stands for any lines; it must
  exit with 0, or with the code in a comment ``<!-- exit 1 -->`` before it;
- ``py``, ``text``, ``toml``, ``yaml`` and blocks without a language are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(?:<!-- exit (?P<exit>\d+) -->\n)?^```(?P<kind>python|console)(?: title=\"(?P<title>[^\"]+)\")?"
    r"(?P<how> replace)?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Made from tables and examples that have tests of their own.
_MADE = ("diagnoses.md", "idioms.md")


def pages() -> list[str]:
    """The pages with code that is run, relative to ``docs``."""
    return [
        path.relative_to(DOCS).as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if path.name not in _MADE
        and path.relative_to(DOCS).parts[0] != "evidence"
        and _BLOCK.search(path.read_text(encoding="utf-8"))
    ]


def run(page: str, folder: Path) -> None:
    """Run the blocks of a page's text in ``folder``, which is the current one.

    Raises:
        AssertionError: a command exits or prints otherwise than the page says.
        Exception: whatever a block of Python raises.
    """
    namespace = {"__name__": "page"}
    for block in _BLOCK.finditer(page):
        text, title = block["text"], block["title"]
        if block["kind"] == "console":
            _command(text, int(block["exit"] or 0), folder)
        elif title is None:
            exec(compile(text, "page", "exec"), namespace)
        else:
            path = folder / title
            path.parent.mkdir(exist_ok=True)
            if block["how"]:
                old, new = text.split("---\n")
                text = path.read_text()
                assert text.count(old) == 1, f"{old!r} is not once in {title}"
                text = text.replace(old, new)
            path.write_text(text)


def _command(text: str, code: int, folder: Path) -> None:
    command, *shown = text.splitlines()
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program in ("bpttcheck", "pytest"), f"not a command that pages run: {command}"
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "GITHUB_ACTIONS": "", "COLUMNS": "100"},
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, f"{command} exits with {done.returncode}:\n{printed}"
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    for line in shown:
        if line != "...":
            assert line in lines, f"{line!r} is not in\n{printed}"
            lines = lines[lines.index(line) + 1 :]


def main() -> None:
    """Run the page that is named, in a folder of its own."""
    page = (DOCS / sys.argv[1]).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        run(page, Path(folder))
        os.chdir(DOCS)


if __name__ == "__main__":
    main()
