"""Run the notebooks of ``examples/notebooks`` from top to bottom: ``python docs/_make/run_notebooks.py``.

Each runs in a folder of its own, in a kernel of this Python. A cell that raises fails. With
``--write`` the notebooks are written back with what they printed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
_SECONDS = 300  # for one cell: a kernel that hangs is no reason to wait for ever


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    book = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(book, timeout=_SECONDS, kernel_name="python3", resources=where).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times of day, which differ in every run
    book.metadata.pop("language_info", None)
    return book


def main() -> None:
    """Run them all."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        started = time.perf_counter()
        book = run(path)
        if "--write" in sys.argv:
            nbformat.write(book, path)
        print(f"{path.name} runs ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
