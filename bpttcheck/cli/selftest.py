"""``bpttcheck selftest``: plant known bugs in the user's own cell, and count the caught ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from bpttcheck.cli.functions import function_options, told
from bpttcheck.cli.terminal import Progress, columns, stdout_kept_clean

if TYPE_CHECKING:
    from bpttcheck.selftest import Planted, SelfTest

_SHOWN = 20
EACH = 1
"""How many bugs of each family are planted by default: under half a minute for a small cell."""

_EXIT_CODES = """\b
Exit codes:
  0  every planted bug that could show was caught
  1  at least one was missed
  2  wrong usage, or TARGET itself does not pass
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("target")
@function_options
@click.option("--family", "families", multiple=True, metavar="NAME", help="Only this; repeatable.")
@click.option("--all", "whole", is_flag=True, help="The whole catalogue, not a few of each family.")
@click.option("--examples", type=click.IntRange(1), default=100, help="Cases (default 100).")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the cases (default 0).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Name every planted bug.")
@click.pass_context
def selftest(
    ctx: click.Context,
    target: str,
    families: Sequence[str],
    whole: bool,
    examples: int,
    seed: int,
    as_json: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Plant known bugs in TARGET, a right cell, and say how many are caught.

    TARGET is what `bpttcheck verify` takes; of a pair of functions, the source of the backward one
    is changed, and of a loss with gradients what does not change the loss. A bug is missed if no
    check fails although a case could have shown it; it is invisible if none could, and the reason
    is given. By default a few bugs of each family are planted; --all plants the whole catalogue,
    which takes minutes, and so does --family, of one.
    """
    from bpttcheck.cli.targets import load
    from bpttcheck.selftest import selftest as plant_all

    with stdout_kept_clean(as_json):
        subject = load(target, told(given)).subject
        with Progress(f"{target}: planting", enabled=not as_json) as progress:
            found = plant_all(
                subject, families=families or None, each=None if whole or families else EACH,
                seed=seed, examples=examples, progress=progress,
            )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo("\n".join(text(found, verbose)))
    ctx.exit(0 if found.passed else 1)


def text(found: SelfTest, verbose: bool = False) -> Iterable[str]:
    """The result as lines for a terminal."""
    from bpttcheck.selftest import INVISIBLE, MISSED

    yield found.headline
    yield ""
    yield from _table(found.planted)
    yield ""
    missed = [one for one in found.planted if one.outcome == MISSED]
    yield from _listed("missed", [_called(one) for one in missed])
    if missed:
        yield "A missed bug is a gap in what bpttcheck can find in this code, not a mistake in it:"
        yield "please report it, with what --json prints."
        yield ""
    unseen = [one for one in found.planted if one.outcome == INVISIBLE]
    yield from _listed("not visible here", [f"{one.name}: {one.reason}" for one in unseen])
    wrong = [
        f"{one.name}: {one.said[0] if one.said else 'nothing'}, not {one.diagnosis}"
        for one in found.planted
        if one.right_diagnosis is False
    ]
    yield from _listed("diagnosed otherwise", wrong)
    if verbose:
        yield from _listed("all", [_line(one) for one in found.planted], limit=None)
    yield _counts(found)


def _table(planted: Sequence[Planted]) -> Iterable[str]:
    from bpttcheck.selftest import CAUGHT, INVISIBLE, MISSED

    families = list(dict.fromkeys(one.family for one in planted))
    width = max((len(family) for family in families), default=6)
    head = ("planted", "caught", "missed", "not visible", "right diagnosis", "right block")
    yield "  ".join([f"  {'':<{width}}", *head])
    for family in families:
        some = [one for one in planted if one.family == family]
        cells = [
            str(len(some)),
            *(str(sum(one.outcome == o for one in some)) for o in (CAUGHT, MISSED, INVISIBLE)),
            _share([one.right_diagnosis for one in some]),
            _share([one.right_block for one in some]),
        ]
        row = [f"{value:>{len(title)}}" for value, title in zip(cells, head, strict=True)]
        yield "  ".join([f"  {family:<{width}}", *row])


def _called(one: Planted) -> str:
    """A planted bug by its name, which may be its sentence."""
    return one.name if one.name == one.sentence else f"{one.name}: {one.sentence}"


def _share(answers: Sequence[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def _listed(title: str, lines: Sequence[str], limit: int | None = _SHOWN) -> Iterable[str]:
    if not lines:
        return
    yield f"{title}:"
    for line in lines[:limit]:
        yield f"  {line}"[: columns()]
    if limit is not None and len(lines) > limit:
        yield f"  +{len(lines) - limit} more (--json names all)"
    yield ""


def _line(one: Planted) -> str:
    said = f" {one.said[0]}" if one.said else ""
    where = f" by {one.check}: {one.named}{said}" if one.check else f" ({one.reason})"
    return f"{one.name}: {one.outcome}{where}"


def _counts(found: SelfTest) -> str:
    diagnoses: list[Any] = [one.right_diagnosis for one in found.planted]
    blocks: list[Any] = [one.right_block for one in found.planted]
    return (
        f"{len(found.planted)} planted; right diagnosis first {_share(diagnoses)}, right block "
        f"named {_share(blocks)}; seed {found.seed}, {found.examples} examples, "
        f"{found.seconds:.0f} s"
    )
