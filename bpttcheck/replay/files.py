"""The folder of stored failures: written whole or not at all, read with suspicion, kept small."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

from bpttcheck.errors import ContractError
from bpttcheck.replay.record import FORMAT, ID

KEPT = 100
"""Failures that one folder keeps; the oldest go first."""

_MOST_BYTES = {".json": 2**22, ".npz": 2**27}
_SUFFIXES = (".npz", ".py", ".json")  # the JSON last: it says that the others are there


def prepare(directory: Path) -> None:
    """Make the folder, and a ``.gitignore`` in it that keeps it out of the repository.

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
    """Write a file at once: whoever reads it sees the old content or the new one.

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
            raise ContractError(f"{path} is no plain file: not read")
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
    """The JSON files in a folder that are named like ours, newest first."""
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
    """Delete the oldest failures beyond :data:`KEPT`; a file that is not ours stays."""
    for path in stored_in(directory)[KEPT:]:
        if _is_ours(path):
            remove(path, _SUFFIXES[::-1])


def remove(path: Path, suffixes: tuple[str, ...]) -> None:
    """Delete what was stored beside ``path`` under these suffixes."""
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
