"""Two revisions of a repository measured in one run, round by round, each in its own process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.bench.measure import MORE, SHORT_ROUND, SHORTEST
from bpttcheck.bench.report.records import HAND, RevisionPoint, RevisionRatio, Size
from bpttcheck.bench.statistics import geometric_mean, ratio
from bpttcheck.cli.beside import child as timing_child
from bpttcheck.errors import ContractError

_NOW, _BASE, _AGAIN = "now", "base", "base again"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MOST_CALLS = 1000


@dataclass(frozen=True)
class RevisionTask:
    """What is to be measured of one target.

    Args:
        target: as on the command line.
        points: sizes and dtypes.
        forms: the hand-written forms.
    """

    target: str
    points: Sequence[tuple[Size, str]]
    forms: Sequence[str] = HAND


@dataclass(frozen=True)
class Checkout:
    """A revision beside the working tree.

    Args:
        top: the repository.
        folder: its files at the revision.
        commit: the short name of the commit.
    """

    top: Path
    folder: Path
    commit: str


def git(*arguments: str, at: Path | None = None) -> str:
    """What ``git`` prints.

    Raises:
        ContractError: it fails, or there is none.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=at, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ContractError(f"git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ContractError(f"`git {' '.join(arguments)}`: {said}")
    return done.stdout.strip()


def revision() -> str:
    """The commit of the working tree, ``abc1234`` or ``abc1234+`` with changes; or ``""``."""
    try:
        return git("rev-parse", "--short", "HEAD") + "+" * bool(
            git("status", "--porcelain", "--untracked-files=no")
        )
    except ContractError:
        return ""


def resolved(name: str) -> tuple[Path, str]:
    """The repository here, and the commit of a revision of it.

    Raises:
        ContractError: there is no repository, or no such revision.
    """
    top = Path(git("rev-parse", "--show-toplevel"))
    try:
        return top, git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except ContractError:
        raise ContractError(
            f"--compare {name!r} is neither a file nor a revision of {top}, expected the"
            " report.json of an older benchmark, or what git knows, such as main or HEAD~1",
            item="compare",
        ) from None


@contextmanager
def checked_out(name: str) -> Generator[Checkout]:
    """The files of a revision in a temporary folder, until the end of the block.

    Args:
        name: what git takes: ``main``, ``HEAD~1``, ``v1.0``.

    Raises:
        ContractError: there is no repository here, or no such revision.
    """
    top, commit = resolved(name)
    with tempfile.TemporaryDirectory(prefix="bpttcheck-base-") as temporary:
        folder = Path(temporary) / "tree"
        git("worktree", "add", "--detach", str(folder), commit, at=top)
        try:
            yield Checkout(top, folder, git("rev-parse", "--short", commit))
        finally:
            git("worktree", "remove", "--force", str(folder), at=top)


def compare_revisions(
    name: str,
    subjects: Sequence[RevisionTask],
    function: Mapping[str, str],
    rounds: int,
    progress: Any = lambda *_: None,
) -> list[RevisionRatio]:
    """Time the hand-written forms of the working tree and of a revision, one after another.

    In every round each of three processes runs each form once, in a new random order: the working
    tree, the revision, and the revision once more, whose ratio to itself is what two processes
    with equal code differ by.

    Args:
        name: the revision.
        subjects: the targets and their points.
        function: the options of functions.
        rounds: paired rounds, at the least; short ones are five times as many.
        progress: called as ``progress(done, total, what)``.

    Returns:
        For each target and form the ratio over all points.

    Raises:
        ContractError: there is no such revision, a target cannot be loaded there, a gradient is
            wrong in one of the two, or they have no form in common.
    """
    with ExitStack() as stack:
        base = stack.enter_context(checked_out(name))
        places = {_NOW: base.top, _BASE: base.folder, _AGAIN: base.folder}
        children = {
            role: stack.enter_context(_Child(role, root, base, name))
            for role, root in places.items()
        }
        total = sum(len(one.points) for one in subjects)
        found: list[RevisionRatio] = []
        done = 0
        for one in subjects:
            points: list[RevisionPoint] = []
            for size, dtype in one.points:
                progress(done, total, f"{size} {dtype} beside {name}")
                points += _point(children, one, dict(function), size, dtype, rounds)
                done += 1
            found += _joined(one.target, name, base.commit, points)
    return found


def _point(
    children: Mapping[str, _Child],
    one: RevisionTask,
    function: dict[str, str],
    size: Size,
    dtype: str,
    rounds: int,
) -> list[RevisionPoint]:
    shape = [size.T, size.B, size.n_in, size.n_hidden]
    target = one.target
    for child in children.values():  # side by side: nothing is timed yet
        child.order("prepare", target=_within(target, child), function=function, size=shape,
                    dtype=dtype, forms=list(one.forms))  # fmt: skip
    prepared = {role: child.answer() for role, child in children.items()}
    for role, answer in prepared.items():
        for form, what in answer["wrong"].items():
            raise ContractError(
                f"{target} at {children[role].name}: {form}: {what}: nothing was compared"
            )
    forms = [
        form for form in one.forms if all(form in answer["ready"] for answer in prepared.values())
    ]
    if not forms:
        raise ContractError(f"{target}: the two revisions have no form in common")
    took = {form: max(answer["ready"][form] for answer in prepared.values()) for form in forms}
    calls = {
        form: min(_MOST_CALLS, math.ceil(SHORTEST / max(one, 1e-9))) for form, one in took.items()
    }
    whole = len(children) * sum(calls[form] * took[form] for form in forms)
    count = MORE * rounds if whole < SHORT_ROUND else rounds
    turns = [(role, form) for role in children for form in forms]
    seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    rng = np.random.default_rng(0)
    for _ in range(count):
        for k in rng.permutation(len(turns)):
            role, form = turns[k]
            children[role].order("seconds", form=form, calls=calls[form])
            seconds[role, form].append(children[role].answer())
    return [
        RevisionPoint(
            form, size, dtype,
            ratio(seconds[_NOW, form], seconds[_BASE, form]),
            [seconds[role, form] for role in (_NOW, _BASE, _AGAIN)],
        )
        for form in forms
    ]  # fmt: skip


def _joined(
    target: str, name: str, commit: str, points: Sequence[RevisionPoint]
) -> list[RevisionRatio]:
    found: list[RevisionRatio] = []
    for form in dict.fromkeys(point.form for point in points):
        own = [point for point in points if point.form == form]
        now = geometric_mean([(p.samples[0], p.samples[1]) for p in own])
        same = geometric_mean([(p.samples[2], p.samples[1]) for p in own])
        found.append(RevisionRatio(target, form, name, commit, now, same, own))
    return found


def _within(target: str, child: _Child) -> str:
    """The target at another root: an absolute path inside the repository becomes one of the other.

    A relative one is that of the working directory, which the child has at its own root.
    """
    place, colon, path = target.rpartition(":")
    file = Path(place)
    if place.endswith(".py") and file.is_absolute():
        return f"{_moved(file, child.top, child.root)}{colon}{path}"
    return target


def _moved(path: Path, top: Path, root: Path) -> Path:
    """A path inside the repository as the same path of a revision."""
    return root / path.relative_to(top) if path.is_relative_to(top) else path


class _Child:
    """A process that has the files of one revision."""

    def __init__(self, role: str, root: Path, base: Checkout, name: str) -> None:
        self.root, self.top = root, base.top
        self.name = "the working tree" if role == _NOW else name
        here = Path.cwd().resolve()
        within = here.relative_to(base.top) if here.is_relative_to(base.top) else Path()
        self._folder = root / within
        if not self._folder.is_dir():
            raise ContractError(f"there is no folder {within} at {name}")
        first = [str(self._folder), str(root), str(root / "src")]
        kept = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
        moved = [str(_moved(Path(one).resolve(), base.top, root)) for one in kept]
        self._variables = {
            **dict.fromkeys(_ONE_THREAD, "1"), **os.environ,
            "PYTHONPATH": os.pathsep.join([*first, *moved]),
        }  # fmt: skip
        if "XLA_FLAGS" not in os.environ:
            self._variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

    def __enter__(self) -> _Child:
        text = Path(timing_child.__file__).read_text(encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", text], cwd=self._folder, env=self._variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:  # waits, and closes what it was connected by
            process.kill()

    def order(self, do: str, **order: Any) -> None:
        """Let it do something."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: its answer will be missing
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """What came of it.

        Raises:
            ContractError: it could not do it, or died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContractError(f"the process of {self.name} ended: see its last lines above")
        answer = json.loads(line)
        if "error" in answer:
            raise ContractError(f"at {self.name}: {answer['error']}")
        return answer["found"]
