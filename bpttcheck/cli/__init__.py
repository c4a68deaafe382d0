"""The command line: ``bpttcheck verify``, ``selftest``, ``replay``, ``flow`` and the rest.

A command imports what it needs when it runs, so that ``--help`` is immediate.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from bpttcheck import __version__
from bpttcheck.cli.bench import bench
from bpttcheck.cli.derive import derive
from bpttcheck.cli.flow import flow
from bpttcheck.cli.listing import explain, listing
from bpttcheck.cli.new import new
from bpttcheck.cli.replay import replay
from bpttcheck.cli.report import report
from bpttcheck.cli.selftest import selftest
from bpttcheck.cli.verify import verify
from bpttcheck.errors import ContractError

_INTERRUPTED = 130

# Click takes the first character for "do not wrap what follows".
_SETTINGS = """\b
Settings of a project, in [tool.bpttcheck] of its pyproject.toml (for pytest, too):
  examples = 100             cases in each check
  seed = 0                   or "random"
  dtypes = ["float64", ...]  the dtypes checked
  checks = ["purity", ...]   only these checks
  strict = false             remarks on conduct are failures
  require = ["jax"]          without this oracle nothing is decided
  lengths = [1, 16, 300]     values of T to try in any case
  batches = [1, 2, 8]        values of B to try in any case
  sizes = [[3, 4], [8, 32]]  only these pairs of n_in and n_hidden
  store = ".bpttcheck"       where failures are stored; false for nowhere
  inconclusive = "fail"      or "skip": what an undecided check does under pytest
  isolate = true             verify: each target in a process of its own
  jobs = 2                   verify: isolated targets checked at a time
  timeout = 60               verify: give up a target after this many seconds
\b
BPTTCHECK_DEBUG=1 in the environment raises internal errors as they are.
"""


class _Doors(click.Group):
    """A group whose commands end in one line: exit code 2 for a wrong argument, 130 for Ctrl-C."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """As Click's, but Ctrl-C ends the process at once, without waiting for compilations."""
        try:
            return super().main(args, *rest, **named)
        except SystemExit as end:
            if end.code == _INTERRUPTED and args is None:  # not called from another program
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(_INTERRUPTED)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except ContractError as error:
            raise click.UsageError(str(error), ctx) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception:
            # Python's own exit code for this is 1, which here means a wrong gradient.
            click.echo(traceback.format_exc(), err=True)
            click.echo("this is an error in bpttcheck, not in what it checked", err=True)
            ctx.exit(2)


@click.group(cls=_Doors, epilog=_SETTINGS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bpttcheck")
def main() -> None:
    """Tell whether a hand-derived backward pass is right, and if not, where and why."""


for _command in (verify, selftest, replay, flow, bench, report, listing, explain, new, derive):
    main.add_command(_command)
