"""``bpttcheck new``: a working cell to start from, and the test that checks it."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

import click

from bpttcheck.cli.templates import CELL, TEST

# A module of one of these names would hide a library that the cell or its test imports.
_TAKEN = {"bpttcheck", "click", "conftest", "hypothesis", "jax", "numpy", "pytest", "scipy"}


@click.command()
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where to write; made if it does not exist (default: here).",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def new(name: str, folder: Path, force: bool) -> None:
    """Write a small working cell NAME and its test.

    NAME is a Python name, such as leaky_unit or LeakyUnit.
    """
    module, cls = _names(name)
    files = {
        folder / f"{module}.py": CELL.substitute(cls=cls),
        folder / f"test_{module}.py": TEST.substitute(cls=cls, module=module),
    }
    existing = [str(path) for path in files if path.exists()]
    if existing and not force:
        verb = "exists" if len(existing) == 1 else "exist"
        raise click.UsageError(
            f"{' and '.join(existing)} {verb} already; --force overwrites, --dir writes elsewhere"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")
    except OSError as error:
        raise click.UsageError(f"cannot write: {error}") from error
    cell, test = files
    click.echo(f"check it with: bpttcheck verify {cell}:{cls}")
    click.echo(f"or with:       pytest {test}")


def _names(name: str) -> tuple[str, str]:
    """The module's name and the class's: ``("leaky_unit", "LeakyUnit")`` from either of them."""
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise click.UsageError(f"NAME={name!r} is no Python name: write leaky_unit or LeakyUnit")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    module = "_".join(word for word in words.split("_") if word)
    cls = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    if not module.isidentifier() or keyword.iskeyword(module) or not cls.isidentifier():
        raise click.UsageError(f"NAME={name!r} makes no module's name: start it with a letter")
    if module.startswith("test_"):
        raise click.UsageError(
            f"NAME={name!r}: pytest would take a file {module}.py for a test; choose a name that "
            f"does not begin with test, such as my_{module}"
        )
    if module in _TAKEN or module in sys.stdlib_module_names:
        raise click.UsageError(
            f"NAME={name!r}: a file {module}.py would hide another module; add a word, such as "
            f"{module}_cell"
        )
    return module, cls
