"""The command line: ``bpttcheck verify``, ``selftest``, ``replay``, ``flow`` and the rest.

Each command is one file and imports what it needs when it runs, so that ``--help`` is immediate.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from bpttcheck import __version__
from bpttcheck.cli.bench import bench
from bpttcheck.cli.explain import explain
from bpttcheck.cli.flow import flow
from bpttcheck.cli.listing import listing
from bpttcheck.cli.new import new
from bpttcheck.cli.replay import replay
from bpttcheck.cli.report import report
from bpttcheck.cli.selftest import selftest
from bpttcheck.cli.verify import verify
from bpttcheck.errors import ContractError


class _Doors(click.Group):
    """A group whose commands end in one line: exit code 2 for a wrong argument, 130 for Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except ContractError as error:
            raise click.UsageError(str(error), ctx) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception:
            # Python's own exit code for this is 1, which here means a wrong gradient.
            click.echo(traceback.format_exc(), err=True)
            click.echo("this is an error in bpttcheck, not in what it checked", err=True)
            ctx.exit(2)


@click.group(cls=_Doors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bpttcheck")
def main() -> None:
    """Tell whether a hand-derived backward pass is right, and if not, where and why."""


for _command in (verify, selftest, replay, flow, bench, report, listing, explain, new):
    main.add_command(_command)
