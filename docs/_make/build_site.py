"""Build the site into ``site/``, strictly and offline: ``python docs/_make/build_site.py``.

It fails for a page that is not current, code on a page that does not run, a public name without a
docstring, and a dead link. ``--fast`` runs no code.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import run_pages

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MADE = {"make_diagnoses": "reference/diagnoses.md", "make_checks": "reference/checks.md"}


def stale() -> list[str]:
    """The pages that their makers would write otherwise."""
    return [
        f"{page} is not current: python docs/_make/{maker}.py"
        for maker, page in MADE.items()
        if importlib.import_module(maker).page() != (HERE.parent / page).read_text(encoding="utf-8")
    ]


def undocumented() -> list[str]:
    """The public names without a docstring."""
    found: list[str] = []
    for name in (
        "",
        ".adapt",
        ".bptt",
        ".networks",
        ".losses",
        ".cells",
        ".on_jax",
        ".deferred",
        ".strategies",
    ):
        module = importlib.import_module(f"bpttcheck{name}")
        for public in module.__all__:
            thing = getattr(module, public)
            if callable(thing) and not inspect.getdoc(thing):
                found.append(f"bpttcheck{name}.{public} has no docstring")
    return found


def does_not_run(page: str) -> str:
    """What went wrong with the code of a page, or an empty text."""
    command = [sys.executable, str(HERE / "run_pages.py"), page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{page} does not run:\n{done.stdout}{done.stderr}" if done.returncode else ""


def main() -> None:
    """Build, or say what is wrong."""
    started = time.perf_counter()
    wrong = [*stale(), *undocumented()]
    pages = [] if "--fast" in sys.argv else run_pages.pages()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong += filter(None, pool.map(does_not_run, pages))
    if wrong:
        sys.exit("\n\n".join(wrong))
    print(f"the code of {len(pages)} pages runs ({time.perf_counter() - started:.0f} s)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    sys.exit(
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
        ).returncode
    )


if __name__ == "__main__":
    main()
