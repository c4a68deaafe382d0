"""``bpttcheck explain``: what a check finds, or what a diagnosis means."""

from __future__ import annotations

import click

from bpttcheck.config import near


@click.command()
@click.argument("name")
def explain(name: str) -> None:
    """Print what the check NAME finds, or what the diagnosis NAME means."""
    pages = _pages()
    if name not in pages:
        raise click.UsageError(
            f"nothing is called {name!r}{near(name, pages)} (known: {', '.join(pages)})"
        )
    click.echo(pages[name].replace("``", "`"))


def _pages() -> dict[str, str]:
    """Every name that can be explained and its page; a check comes before a diagnosis."""
    from bpttcheck import diagnose
    from bpttcheck.verify.checks import CHECKS

    pages = {name: check.text for name, check in CHECKS.items()}
    return {**diagnose.PAGES, **pages}
