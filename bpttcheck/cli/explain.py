"""``bpttcheck explain``: what a check finds, or what a diagnosis means."""

from __future__ import annotations

import importlib
import importlib.util
import inspect

import click

from bpttcheck.config import near


@click.command()
@click.argument("name")
def explain(name: str) -> None:
    """Print what the check NAME finds."""
    pages = _pages()
    if name not in pages:
        raise click.UsageError(
            f"nothing is called {name!r}{near(name, pages)} (known: {', '.join(pages)})"
        )
    click.echo(pages[name].replace("``", "`"))


def _pages() -> dict[str, str]:
    """Every name that can be explained and its page; a check comes before a diagnosis."""
    from bpttcheck.verify.checks import CHECKS

    pages = {name: inspect.getdoc(check) or "" for name, check in CHECKS.items()}
    if importlib.util.find_spec("bpttcheck.verify.diagnose") is None:
        return pages
    diagnose = importlib.import_module("bpttcheck.verify.diagnose")
    return {**getattr(diagnose, "PAGES", {}), **pages}
