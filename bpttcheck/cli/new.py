"""``bpttcheck new``: a working cell to start from, and the test that checks it."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from pathlib import Path
from string import Template

import click

# A module with one of these names would shadow a library that the cell or its test imports.
_TAKEN = {"bpttcheck", "click", "conftest", "hypothesis", "jax", "numpy", "pytest", "scipy"}


@click.command()
@click.argument("name", required=False)
@click.option(
    "--from",
    "existing",
    metavar="FILE.py:FUNC[+BACKWARD]",
    help="Write a test of functions that exist instead, with a proposed signature.",
)
@click.option("--at", metavar="FILE.npz", help="Arguments of those, by name: their shapes tell.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write; made if it does not exist (default: here, or beside FILE.py).",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def new(
    name: str | None, existing: str | None, at: str | None, folder: Path | None, force: bool
) -> None:
    """Write a small working cell NAME and its test, or the test of functions that exist.

    NAME is a Python name, such as leaky_unit or LeakyUnit. With --from, the letters of the axes are
    proposed from the names of the parameters, and from the shapes of arguments where the file has a
    tuple `args` or a function example() that returns some, or --at names a file of them.
    """
    if existing is not None:
        if name is not None:
            raise click.UsageError("NAME is for a new cell, and --from for functions that exist")
        from bpttcheck.cli.new_from import test_of

        path, text, remarks = test_of(existing, at)
        place = (path.parent if folder is None else folder) / path.name
        _write({place: text}, force)
        for remark in remarks:
            click.echo(f"guessed: {remark}")
        click.echo(f"check it with: pytest {place}")
        return
    if name is None:
        raise click.UsageError("name a new cell, or functions that exist with --from")
    if at is not None:
        raise click.UsageError("--at goes with --from")
    folder = Path() if folder is None else folder
    module, cls = _names(name)
    files = {
        folder / f"{module}.py": CELL.substitute(cls=cls),
        folder / f"test_{module}.py": TEST.substitute(cls=cls, module=module),
    }
    _write(files, force)
    cell, test = files
    click.echo(f"check it with: bpttcheck verify {shlex.quote(f'{cell}:{cls}')}")
    click.echo(f"or with:       pytest {shlex.quote(str(test))}")


def _write(files: dict[Path, str], force: bool) -> None:
    existing = [str(path) for path in files if path.exists()]
    if existing and not force:
        verb = "exists" if len(existing) == 1 else "exist"
        raise click.UsageError(
            f"{' and '.join(existing)} {verb} already; --force overwrites, --dir writes elsewhere"
        )
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")
    except OSError as error:
        raise click.UsageError(f"cannot write: {error}") from error


def _names(name: str) -> tuple[str, str]:
    """The names of the module and the class: ``("leaky_unit", "LeakyUnit")`` from either."""
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise click.UsageError(f"NAME={name!r} is not a Python name: write leaky_unit or LeakyUnit")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    module = "_".join(word for word in words.split("_") if word)
    cls = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    if not module.isidentifier() or keyword.iskeyword(module) or not cls.isidentifier():
        raise click.UsageError(f"NAME={name!r} gives no module name: start it with a letter")
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


CELL = Template('''\
"""A recurrent cell in plain NumPy, with its hand-derived backward step."""

import numpy as np


class $cls:
    """The cell h' = tanh(x U + h W + b), whose output is its hidden state.

    Rows are samples: x (B, n_in), h (B, n_hidden). Forward:

        z  = x @ U + h @ W + b                               (1)
        h' = tanh(z)                                         (2)
        y  = h'                                              (3)

    Backward. Write d_v for the gradient of the loss with respect to v. The loss reads h' twice, as
    the next state and as the output, and tanh'(z) = 1 - tanh(z)^2 = 1 - h'^2, so

        d_z = (d_state + d_y) * (1 - h'^2)                   from (2) and (3)

    A small change of everything in (1) is dz = dx @ U + x @ dU + dh @ W + h @ dW + db. It changes
    the loss by sum(d_z * dz), and the factor of each change is its gradient:

        d_x = d_z @ U.T          d_U = x.T @ d_z             the x U term
        d_h = d_z @ W.T          d_W = h.T @ d_z             the h W term
                                 d_b = sum of d_z over rows  the b term
    """

    def init(self, rng, n_in, n_hidden):
        """Fresh parameters: U (n_in, n_hidden), W (n_hidden, n_hidden), b (n_hidden,)."""
        scale = n_hidden**-0.5
        return {
            "U": rng.uniform(-scale, scale, (n_in, n_hidden)),
            "W": rng.uniform(-scale, scale, (n_hidden, n_hidden)),
            "b": rng.uniform(-scale, scale, n_hidden),
        }

    def initial_state(self, params, batch_size):
        """The state before the first step: zeros (batch_size, n_hidden)."""
        b = params["b"]
        return np.zeros((batch_size, b.shape[0]), b.dtype)

    def step(self, params, state, x):
        """One step forward: (new_state, y, cache)."""
        h_new = np.tanh(x @ params["U"] + state @ params["W"] + params["b"])
        return h_new, h_new, (x, state, h_new)

    def step_vjp(self, params, cache, d_state, d_y):
        """One step backward: (d_params, d_previous_state, d_x), this step's share only."""
        x, h, h_new = cache
        d_z = (d_state + d_y) * (1 - h_new**2)
        d_params = {"U": x.T @ d_z, "W": h.T @ d_z, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"].T, d_z @ params["U"].T
''')

TEST = Template('''\
"""Checks the backward step of $cls: one test for each check."""

from $module import $cls

import bpttcheck


@bpttcheck.parametrize_with_checks([$cls()])
def test_gradients(subject, check):
    check(subject)
''')
