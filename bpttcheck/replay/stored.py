"""Failures on disk: stored when they are found, and run again later on exactly the same numbers.

Each failure is three files of one name in ``.bpttcheck``: a JSON record, an ``.npz`` with the
arrays, and a script that needs only NumPy and the cell. They are written atomically, and the folder
is kept small. Reading them runs no code: they contain no pickles, imports or type names.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.adapt.function import Function
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import Run
from bpttcheck.problems.problem import Problem
from bpttcheck.replay import record as records
from bpttcheck.replay.function_script import function_script
from bpttcheck.replay.problem import SerializedProblem, flatten, shape
from bpttcheck.replay.record import FORMAT, ID, Stored
from bpttcheck.replay.script import example as _example
from bpttcheck.replay.script import script
from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.renamed import renamed
from bpttcheck.results.report import Report
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call
from bpttcheck.verify.check import check
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import NotApplicable

__all__ = ["DIRECTORY", "KEPT", "Stored", "delete", "example", "listed", "load", "rerun", "store"]


DIRECTORY = ".bpttcheck"


def store(
    report: Report,
    directory: Path | str = DIRECTORY,
    target: str | None = None,
    *,
    function: Mapping[str, str] | None = None,
    subject: Any = None,
) -> list[Stored]:
    """Write every finding of a report to a folder; the same failure is written to the same files.

    The folder keeps the newest :data:`KEPT` failures. Foreign files in it are left alone.

    Args:
        report: what a run found.
        directory: the folder; made if it does not exist.
        target: the command line argument that named the subject, such as ``"cell.py:MyCell"``, or
            None.
        function: what the command line said of a function, such as its signature.
        subject: what was checked: only with it a failure of a function gets a script.

    Returns:
        What was stored, in the order of the findings.

    Raises:
        ContractError: the folder cannot be written.
    """
    folder = Path(directory)
    # A check that was expected to fail and passed cannot be replayed.
    findings = [f for f in report.findings if f.block != "expected_failures"]
    if not findings:
        return []
    prepare(folder)
    code = unfilled(getattr(subject, "target", subject))
    stored: dict[str, Stored] = {}
    for finding in findings:
        one = _write(report, finding, folder, target, function, code)
        stored[one.id] = one
    prune(folder)
    return list(stored.values())


def load(name: str | Path, directory: Path | str = DIRECTORY) -> Stored:
    """Read one failure; every byte of it is checked, and none of it is run.

    Args:
        name: its id, or the path of its JSON file (a :class:`~pathlib.Path` or a text that ends in
            ``.json``).
        directory: the folder in which an id is looked for.

    Raises:
        ContractError: there is no such failure, or its files are damaged, foreign or of a newer
            bpttcheck.
    """
    path = _path(name, Path(directory))
    text = read(path)
    if text is None:
        known = [p.stem for p in stored_in(path.parent)]
        raise ContractError(
            f"no failure is stored as {path} ({len(known)} others are; `bpttcheck replay` lists "
            "them)",
            item="id",
        )
    if not records.ID.fullmatch(path.stem):
        raise ContractError(f"{path} is not named like a stored failure", item="id")
    try:
        stored = records.parse(text.decode(), read(path.with_suffix(".npz")))
        if stored.id != path.stem:
            raise ValueError(f"it is the failure {stored.id} under another name")
    except ValueError as error:
        raise ContractError(
            f"{path} cannot be replayed: {error}. Delete it, and let `bpttcheck verify` store the "
            "failure again",
            item="id",
        ) from error
    return replace(stored, path=path)


def delete(name: str, directory: Path | str = DIRECTORY) -> None:
    """Delete one stored failure: its record, its arrays and its script.

    Args:
        name: its id.
        directory: the folder it is in.
    """
    remove(Path(directory) / f"{name}.json", _SUFFIXES)


def listed(directory: Path | str = DIRECTORY) -> list[tuple[Path, Stored | ContractError, float]]:
    """The content of a folder, newest first: each file, its record or read error, its age.

    Args:
        directory: the folder.

    Returns:
        Triples of the JSON file, its content, and its age in seconds.
    """
    found: list[tuple[Path, Stored | ContractError, float]] = []
    for path in stored_in(Path(directory)):
        try:
            record: Stored | ContractError = load(path)
        except ContractError as error:
            record = error
        found.append((path, record, max(0.0, time.time() - path.lstat().st_mtime)))
    return found


def example(stored: Stored) -> str:
    """The failure's problem as Hypothesis's ``@example(problem=...)``, to be pasted over a test.

    Raises:
        ContractError: the failure has no problem.
    """
    if stored.is_function:
        raise ContractError(
            f"{stored.id} is a failure of a function, whose arguments no strategy draws: there is "
            "no @example; judge them again with `bpttcheck replay`"
        )
    if stored.flat is None or stored.finding.case is None:
        raise ContractError(
            f"{stored.id} has no problem of its own, so there is no @example; its check runs again "
            "with its seed"
        )
    return _example(stored.finding.case, stored.flat)


def _write(
    report: Report,
    finding: Finding,
    folder: Path,
    target: str | None,
    function: Mapping[str, str] | None,
    code: Any,
) -> Stored:
    problem: Problem | None = finding.problem
    try:
        flat = None if problem is None else flatten(problem)
    except ValueError:
        flat = None  # too large or of another kind: the seed still finds it
    stored = records.of(report, finding, target, flat, function)
    path = folder / f"{stored.id}.json"
    stored = replace(stored, path=path)
    record, packed = stored.files()
    text = None if flat is None or problem is None else _script(stored, problem, folder, code)
    siblings = {".npz": packed, ".py": (text or "").encode()}
    remove(path, tuple(suffix for suffix, data in siblings.items() if not data))
    for suffix, data in siblings.items():
        if data:
            write(path.with_suffix(suffix), data)
    write(path, record.encode())
    return stored


def _script(stored: Stored, problem: Problem, folder: Path, code: Any) -> str | None:
    if not stored.is_function:
        return script(stored, problem, folder)
    return function_script(stored, problem, code, folder) if isinstance(code, Function) else None


def _path(name: str | Path, directory: Path) -> Path:
    if isinstance(name, Path) or name.endswith(".json"):
        path = Path(name)
        if path.suffix != ".json":
            raise ContractError(f"{path} is not a JSON file: name the one that ends in .json")
        return path
    if not records.ID.fullmatch(name):
        raise ContractError(
            f"id={name!r:.80}, expected one such as lstm-step_vjp-d_params_b-3f2a1c, or the path "
            "of a JSON file; `bpttcheck replay` lists what is stored",
            item="id",
        )
    return directory / f"{name}.json"


def rerun(stored: Stored, subject: Any) -> Report:
    """Run the check that failed again: on the stored problem, or with its seed if there is none.

    Args:
        stored: the failure.
        subject: the cell, layer or :class:`bpttcheck.Subject` that it was found on.

    Returns:
        A report: FAILED if the check still fails, PASSED if it passes now, INCONCLUSIVE if the
        problem is no evidence either way.

    Raises:
        ContractError: the subject's parameters or states are not those of the stored problem.
    """
    known = replace(Subject.of(subject), expected_failures=None)
    flat, case = stored.flat, stored.finding.case
    if flat is None or case is None:
        return _same_seed(stored, known)
    started = time.perf_counter()
    if known.traits.signature is not None or stored.is_function:
        problem = _of_function(known, stored, flat)
    else:
        problem = flat.restore(case, _structure(known, stored, flat))
    run = Run(known, stored.seed, [case.dtype])
    named = replace(stored.finding, block=_block(run, stored.finding.block))
    result, findings = _on_problem(run, named, problem, started)
    note = f"replayed {stored.id}: one problem, the stored one"
    notes = [note, *run.code.notes.texts, *([run.jax.declined] if run.jax.declined else [])]
    report = Report(
        subject=known.name,
        checks=(result,),
        findings=findings,
        seed=stored.seed,
        examples=1,
        dtypes=(case.dtype,),
        notes=(*notes, *_other_name(stored, known)),
        seconds=time.perf_counter() - started,
    )
    return renamed(report, run.names)


def _block(run: Run, name: str) -> str:
    """The block that a function's author calls so."""
    return next((block for block, called in run.names.items() if called == name), name)


def _of_function(subject: Subject, stored: Stored, flat: SerializedProblem) -> Problem:
    """The stored problem of a function, which must have the inputs of the subject."""
    function, signature = unfilled(subject.target), subject.traits.signature
    params = dict(zip(flat.params, flat.leaves("param"), strict=True))
    if signature is None or not stored.is_function:
        kinds = ("a cell or a layer", "a function")
        one, other = kinds if signature is None else kinds[::-1]
        raise ContractError(f"{stored.id} was found on {other}, but {subject.name} is {one}")
    try:
        sizes = function.letters(params)
    except ContractError as error:
        raise ContractError(f"{stored.id} was stored for other inputs: {error}") from error
    wanted = [name for name, leaf in signature.expanded(sizes) if leaf.kind != "constant"]
    if sorted(wanted) != sorted(params):
        raise ContractError(
            f"{stored.id} was stored for the inputs {', '.join(params)}, but those of "
            f"{subject.name} are {', '.join(wanted)}: verify it again"
        )
    assert stored.finding.case is not None
    case = replace(stored.finding.case, letters=tuple(sizes.items()))
    return flat.restore(case, trees.structure(()))


def _structure(subject: Subject, stored: Stored, flat: SerializedProblem) -> trees.Structure:
    """The structure of the subject's state, which must be that of the stored one."""
    case, layer = stored.finding.case, subject.layer
    assert case is not None
    rng = np.random.default_rng(stored.seed)
    drawn = call("init", layer.init, rng, case.n_in, case.n_hidden)
    params = dict(zip(flat.params, flat.leaves("param"), strict=True))
    mine = {key: np.shape(value) for key, value in drawn.items()}
    theirs = {key: value.shape for key, value in params.items()}
    if mine != theirs:
        raise ContractError(
            f"{stored.id} was stored for parameters of the shapes {theirs}, but those of "
            f"{subject.name} are {mine}: is it another cell, or was it changed since? Then verify "
            "it again"
        )
    state = call("initial_state", layer.initial_state, params, case.B)
    structure = trees.structure(state)
    shapes = [np.shape(leaf) for leaf in trees.leaves(state)]
    if shape(structure) != flat.state or shapes != [a.shape for a in flat.leaves("state0")]:
        raise ContractError(
            f"{stored.id} was stored for another state than that of {subject.name}, which is "
            f"{structure.describe()} of the shapes {shapes}: verify the cell again"
        )
    return structure


def _on_problem(
    run: Run, finding: Finding, problem: Problem, started: float
) -> tuple[CheckResult, tuple[Finding, ...]]:
    on_problem = CHECKS[finding.check].on_problem
    assert on_problem is not None  # a failure without a problem is run again as a whole check
    try:
        tally = on_problem(run, problem)
    except NotApplicable as reason:
        return CheckResult(finding.check, None, skipped=str(reason)), ()
    result = tally.result(time.perf_counter() - started)
    judged = any(b.block == finding.block and b.judged for b in result.blocks)
    if result.verdict is Verdict.INCONCLUSIVE and judged and not tally.contradictions:
        # Other blocks may be blind in this problem: the one that failed was judged, and is right.
        result = replace(result, verdict=Verdict.PASSED, reason="")
    return result, tuple(_diagnosed(found, finding) for found in tally.findings)


def _diagnosed(found: Finding, stored: Finding) -> Finding:
    """A diagnosis rests on many cases; the stored one holds if the number is the same."""
    same = (found.block, found.hand) == (stored.block, stored.hand)
    return replace(found, diagnoses=stored.diagnoses) if same else found


def _same_seed(stored: Stored, subject: Subject) -> Report:
    """The whole check again: its cases are a function of the seed."""
    report = check(
        subject,
        checks=[stored.finding.check],
        examples=stored.examples,
        seed=stored.seed,
        dtypes=stored.dtypes,
        raises=False,
    )
    note = (
        f"replayed {stored.id}: no problem is stored, so the check ran again with seed "
        f"{stored.seed} and {stored.examples} examples"
    )
    return replace(report, notes=(note, *report.notes, *_other_name(stored, subject)))


def _other_name(stored: Stored, subject: Subject) -> tuple[str, ...]:
    if stored.subject == subject.name:
        return ()
    return (f"it was stored for {stored.subject}, and is replayed on {subject.name}",)


KEPT = 100
"""The number of failures that one folder keeps; the oldest are deleted first."""

_MOST_BYTES = {".json": 2**22, ".npz": 2**27}
_SUFFIXES = (".npz", ".py", ".json")  # the JSON last: it implies that the others exist


def prepare(directory: Path) -> None:
    """Create the folder, with a ``.gitignore`` that keeps it out of the repository.

    Raises:
        ContractError: it cannot be written, or is a link.
    """
    if directory.is_symlink():
        raise ContractError(
            f"{directory} is a symbolic link, expected a folder: name the folder itself, as "
            "`store` in [tool.bpttcheck]"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        ignore = directory / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Made by bpttcheck: failures to replay.\n*\n", encoding="utf-8")
    except OSError as error:
        raise ContractError(f"failures cannot be stored in {directory}: {error}") from error


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one.

    Raises:
        ContractError: it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(".tmp", ".", path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise ContractError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> bytes | None:
    """The content of a plain file of reasonable size; None if there is none.

    Raises:
        ContractError: it is a link, a folder, a device or too large, or cannot be read.
    """
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise ContractError(f"{path} is a symbolic link, expected a plain file: not read")
        if not stat.S_ISREG(found.st_mode):
            raise ContractError(f"{path} is not a plain file: not read")
        if found.st_size > _MOST_BYTES[path.suffix]:
            raise ContractError(
                f"{path} has {found.st_size} bytes, more than bpttcheck writes: not read"
            )
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error}") from error


def stored_in(directory: Path) -> list[Path]:
    """The JSON files in a folder that are named like stored failures, newest first."""
    found: list[tuple[float, Path]] = []
    try:
        for path in directory.glob("*.json"):
            with contextlib.suppress(OSError):
                if ID.fullmatch(path.stem):
                    found.append((path.lstat().st_mtime, path))
    except OSError as error:
        raise ContractError(f"{directory} cannot be read: {error}") from error
    return [path for _, path in sorted(found, key=lambda item: (-item[0], item[1].name))]


def prune(directory: Path) -> None:
    """Delete the oldest failures beyond :data:`KEPT`; foreign files stay."""
    for path in stored_in(directory)[KEPT:]:
        if _is_ours(path):
            remove(path, _SUFFIXES[::-1])


def remove(path: Path, suffixes: tuple[str, ...]) -> None:
    """Delete the files stored beside ``path`` with these suffixes."""
    for suffix in suffixes:
        with contextlib.suppress(OSError):
            path.with_suffix(suffix).unlink()


def _is_ours(path: Path) -> bool:
    try:
        record = json.loads(read(path) or b"")
    except (ContractError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and (record.get("format"), record.get("id")) == (
        FORMAT,
        path.stem,
    )
