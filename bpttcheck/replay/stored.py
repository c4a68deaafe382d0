"""Failures on the disk: stored when they are found, run again later, on the very same numbers.

Each failure is three files of one name in ``.bpttcheck``: a JSON record, an ``.npz`` with the
arrays, and a script that needs only NumPy and the cell. Reading them runs nothing: no pickle, no
import, no type is named in them that would be looked up.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from bpttcheck.errors import ContractError
from bpttcheck.problems.problem import Problem
from bpttcheck.replay import files
from bpttcheck.replay import record as records
from bpttcheck.replay.again import rerun
from bpttcheck.replay.files import KEPT
from bpttcheck.replay.record import Stored, flatten
from bpttcheck.replay.script import example as _example
from bpttcheck.replay.script import script
from bpttcheck.results.records import Finding
from bpttcheck.results.report import Report

__all__ = ["DIRECTORY", "KEPT", "Stored", "example", "listed", "load", "rerun", "store"]

DIRECTORY = ".bpttcheck"


def store(
    report: Report, directory: Path | str = DIRECTORY, target: str | None = None
) -> list[Stored]:
    """Write every finding of a report to a folder; the same failure is written to the same files.

    The folder keeps the newest :data:`KEPT` failures. Files in it that are not ours are left alone.

    Args:
        report: what a run found.
        directory: the folder; made if it does not exist.
        target: what was typed to name the subject, such as ``"cell.py:MyCell"``; None if nothing.

    Returns:
        What was stored, in the order of the findings.

    Raises:
        ContractError: the folder cannot be written.
    """
    folder = Path(directory)
    # A check that was announced to fail and passed is no failure that could be run again.
    findings = [f for f in report.findings if f.block != "expected_failures"]
    if not findings:
        return []
    files.prepare(folder)
    stored = {one.id: one for one in (_write(report, f, folder, target) for f in findings)}
    files.prune(folder)
    return list(stored.values())


def load(name: str | Path, directory: Path | str = DIRECTORY) -> Stored:
    """Read one failure; every byte of it is checked, and nothing in it is run.

    Args:
        name: its id, or the path of its JSON file (a :class:`~pathlib.Path` or a text that ends in
            ``.json``).
        directory: the folder in which an id is looked for.

    Raises:
        ContractError: there is no such failure, or its files are damaged, foreign or of a newer
            bpttcheck.
    """
    path = _path(name, Path(directory))
    text = files.read(path)
    if text is None:
        known = [p.stem for p in files.stored_in(path.parent)]
        raise ContractError(
            f"no failure is stored as {path} ({len(known)} others are; `bpttcheck replay` lists "
            "them)",
            item="id",
        )
    if not records.ID.fullmatch(path.stem):
        raise ContractError(f"{path} is not named like a stored failure", item="id")
    try:
        stored = records.parse(text.decode(), files.read(path.with_suffix(".npz")))
        if stored.id != path.stem:
            raise ValueError(f"it is the failure {stored.id} under another name")
    except ValueError as error:
        raise ContractError(
            f"{path} cannot be replayed: {error}. Delete it, and let `bpttcheck verify` store the "
            "failure again",
            item="id",
        ) from error
    return replace(stored, path=path)


def listed(directory: Path | str = DIRECTORY) -> list[tuple[Path, Stored | ContractError, float]]:
    """What a folder holds, newest first: each file, its record or why it cannot be read, its age.

    Args:
        directory: the folder.

    Returns:
        Triples of the JSON file, its content, and its age in seconds.
    """
    found: list[tuple[Path, Stored | ContractError, float]] = []
    for path in files.stored_in(Path(directory)):
        try:
            record: Stored | ContractError = load(path)
        except ContractError as error:
            record = error
        found.append((path, record, max(0.0, time.time() - path.lstat().st_mtime)))
    return found


def example(stored: Stored) -> str:
    """The failure's problem as Hypothesis's ``@example(problem=...)``, to be pasted over a test.

    Raises:
        ContractError: no problem belongs to the failure.
    """
    if stored.flat is None or stored.finding.case is None:
        raise ContractError(
            f"{stored.id} has no problem of its own, so there is no @example; its check runs again "
            "with its seed"
        )
    return _example(stored.finding.case, stored.flat)


def _write(report: Report, finding: Finding, folder: Path, target: str | None) -> Stored:
    problem: Problem | None = finding.problem
    try:
        flat = None if problem is None else flatten(problem)
    except ValueError:
        flat = None  # too large or of another kind: the seed still finds it
    stored = records.of(report, finding, target, flat)
    path = folder / f"{stored.id}.json"
    stored = replace(stored, path=path)
    record, packed = stored.files()
    text = None if flat is None or problem is None else script(stored, problem, folder)
    siblings = {".npz": packed, ".py": (text or "").encode()}
    files.remove(path, tuple(suffix for suffix, data in siblings.items() if not data))
    for suffix, data in siblings.items():
        if data:
            files.write(path.with_suffix(suffix), data)
    files.write(path, record.encode())
    return stored


def _path(name: str | Path, directory: Path) -> Path:
    if isinstance(name, Path) or name.endswith(".json"):
        path = Path(name)
        if path.suffix != ".json":
            raise ContractError(f"{path} is no JSON file: name the one that ends in .json")
        return path
    if not records.ID.fullmatch(name):
        raise ContractError(
            f"id={name!r:.80}, expected one such as lstm-step_vjp-d_params_b-3f2a1c, or the path "
            "of a JSON file; `bpttcheck replay` lists what is stored",
            item="id",
        )
    return directory / f"{name}.json"
