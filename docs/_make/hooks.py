"""Hooks of the site: pages link to the examples, which lie beside ``docs``, and find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Take the examples in."""
    for path in sorted((ROOT / "examples").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``../../examples/`` is right in the repository, ``../examples/`` on the site."""
    return markdown.replace("](../../examples/", "](../examples/")
