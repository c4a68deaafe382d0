"""``bpttcheck derive``: the backward pass of a cell from its step, in NumPy or LaTeX."""

from __future__ import annotations

import click

from bpttcheck.errors import ContractError, Declined

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  it was written, and passes if it was checked
  1  what was written does not pass: a defect of bpttcheck, to be reported
  2  wrong usage, or a step of which it cannot be written; the reason names the line
  3  the checks could not decide
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("target")
@click.option("--latex", is_flag=True, help="Print the equations in LaTeX instead of NumPy.")
@click.option(
    "--check/--no-check", default=True, help="Run the checks on what was written (default: yes)."
)
@click.option(
    "--examples", type=click.IntRange(1), default=30, help="Cases for each check (default 30)."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the checks.")
def derive(target: str, latex: bool, check: bool, examples: int, seed: int) -> None:
    """Write out the backward pass of TARGET, a cell, from its step.

    TARGET is what `bpttcheck verify` takes; it needs no step_vjp. What is printed is automatic
    differentiation of the traced step, written in the names of the step: not a derivation by hand,
    and no check of itself. The last line says whether it passes the checks of `bpttcheck verify`.
    """
    from bpttcheck.cli.targets import load
    from bpttcheck.derivation import derive as made_from

    loaded = load(target)
    if loaded.note:
        click.echo(f"note: {loaded.note}", err=True)
    try:
        made = made_from(loaded.subject, examples=examples if check else 0, seed=seed)
    except Declined as refusal:
        what = f"of target {target!r} no backward pass is written: {refusal}"
        raise ContractError(what) from None
    click.echo(made.latex if latex else made.source, nl=False)
    if made.report is None:
        return
    click.echo(f"{'%' if latex else '#'} {made.conclusion}")
    if not made.report.passed:
        click.echo(str(made.report), err=True)
        failed = made.report.verdict.value == "failed"
        raise click.exceptions.Exit(1 if failed else 3)
