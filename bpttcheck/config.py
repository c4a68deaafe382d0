"""The settings of a project: the table ``[tool.bpttcheck]`` of pyproject.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bpttcheck.errors import ContractError

TABLE = "[tool.bpttcheck]"
DTYPES = ("float64", "float32")
ORACLES = ("jax", "torch", "differences")
RANDOM = "random"
FAILURES = ".bpttcheck"


@dataclass(frozen=True)
class Settings:
    """The options common to all entry points.

    Args:
        examples: cases in each check.
        seed: the run's seed, or ``"random"`` for a new one in each run.
        dtypes: the dtypes checked.
        checks: names of the checks to run; None for all.
        inconclusive: what an inconclusive check does under pytest, ``"fail"`` or ``"skip"``.
        store: the folder in which failures are stored, relative to the project; None for nowhere.
        strict: whether remarks on conduct are failures.
        require: oracles without which a check is inconclusive, such as ``("jax",)``, or
            ``("torch",)`` where subjects of torch have a reference.
        lengths: values of T to try in any case; None: only the usual ones.
        batches: values of B likewise.
        sizes: ``(n_in, n_hidden)`` pairs that are used alone; None for any.
        isolate: whether ``bpttcheck verify`` checks each target in a process of its own; None: if
            there are several.
        jobs: how many isolated targets are checked at a time; None: one for each processor.
        timeout: seconds after which a target in a process of its own is given up; None: never.
    """

    examples: int = 100
    seed: int | str = 0
    dtypes: tuple[str, ...] = DTYPES
    checks: tuple[str, ...] | None = None
    inconclusive: str = "fail"
    store: str | None = FAILURES
    strict: bool = False
    require: tuple[str, ...] = ()
    lengths: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    isolate: bool | None = None
    jobs: int | None = None
    timeout: float | None = None

    def check_options(self) -> dict[str, Any]:
        """The newer options of :func:`bpttcheck.check` that differ from its defaults."""
        names = ("strict", "require", "lengths", "batches", "sizes")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def find(folder: Path) -> Path | None:
    """The nearest ``pyproject.toml``, in ``folder`` or above it."""
    for place in (folder, *folder.parents):
        candidate = place / "pyproject.toml"
        if candidate.is_file():
            return candidate
    return None


def read(path: Path | None) -> Settings:
    """The settings in a ``pyproject.toml``; the defaults where there is no file or no table.

    Args:
        path: the file, or None.

    Raises:
        ContractError: the file is not TOML, the table is not a table, a key is unknown, or a value
            has the wrong type.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text(encoding="utf-8")
        if "bpttcheck" not in text:
            return Settings()  # the usual case for a plugin that is merely installed: no cost
        import tomllib

        document = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read as TOML: {error}", item=TABLE) from error
    table = _table(_table(document, "tool", path), "bpttcheck", path)
    return Settings(**{key: _value(key, value, path) for key, value in table.items()})


def _table(inside: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = inside.get(key, {})
    if not isinstance(found, dict):
        kind = "a list of tables" if isinstance(found, list) else type(found).__name__
        raise ContractError(
            f"{path}: {key} = {str(found)[:40]} is {kind}, but should be a table: write {TABLE} "
            "on a line of its own, and keys such as `examples = 100` below it",
            item=TABLE,
        )
    return cast("dict[str, Any]", found)


def failures(settings: Settings, project: Path | None) -> Path | None:
    """The folder in which failures are stored, None if they are not.

    Args:
        settings: what the project says.
        project: the folder of its ``pyproject.toml``; None if there is none: the working directory.
    """
    if settings.store is None:
        return None
    folder = (project or Path.cwd()) / settings.store
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def parse_seed(text: object) -> int | str:
    """A seed as written on a command line or in a file: a natural number or ``"random"``.

    Raises:
        ContractError: it is neither.
    """
    if text == RANDOM:
        return RANDOM
    # True is an int in Python, but not meant as a seed.
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return int(text)
    raise ContractError(f"seed={text!r}, expected a natural number or {RANDOM!r}", item="seed")


def draw_seed(seed: int | str) -> int:
    """The seed itself, or a fresh one where ``"random"`` was asked for."""
    if isinstance(seed, int):
        return seed
    import secrets

    return secrets.randbits(32)


def near(given: str, known: Iterable[str]) -> str:
    """``"; did you mean 'examples'?"``, or ``""`` where nothing known is close to ``given``."""
    import difflib

    matches = difflib.get_close_matches(given, list(known), n=2)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def check_names(names: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple, all known ones for None.

    Raises:
        ContractError: a name is unknown.
    """
    for name in names or ():
        if name not in known:
            raise ContractError(
                f"unknown check {name!r}{near(name, known)} (known: {', '.join(known)})",
                item="checks",
            )
    return tuple(known if names is None else names)


def _examples(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ContractError(f"examples={value!r}, expected an integer of at least 1")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ContractError(f"{key}={value!r}, expected a list of names that is not empty")
    return tuple(value)


def _dtypes(value: Any) -> tuple[str, ...]:
    names = _names("dtypes", value)
    for name in names:
        if name not in DTYPES:
            raise ContractError(
                f"dtypes={value!r}, expected some of {', '.join(map(repr, DTYPES))}"
                + near(name, DTYPES)
            )
    return names


def _inconclusive(value: Any) -> str:
    if value not in ("fail", "skip"):
        raise ContractError(f"inconclusive={value!r}, expected 'fail' or 'skip'")
    return value


def _store(value: Any) -> str | None:
    if isinstance(value, bool):
        return FAILURES if value else None
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ContractError(f"store={value!r}, expected a folder's name, or false")
    return value


def _flag(key: str) -> Callable[[Any], bool]:
    def reader(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ContractError(f"{key}={value!r}, expected true or false")
        return value

    return reader


def parse_require(value: Any) -> tuple[str, ...]:
    """Names of oracles.

    Raises:
        ContractError: it is not a list of names, or a name is unknown.
    """
    names = _names("require", list(value) if isinstance(value, tuple) else value)
    for name in names:
        if name not in ORACLES:
            raise ContractError(
                f"require={name!r}, expected some of {', '.join(map(repr, ORACLES))}"
                + near(name, ORACLES),
                item="require",
            )
    return names


def parse_counts(key: str, value: Any) -> tuple[int, ...]:
    """Values of T or of B: a list of integers, or ``"1,16,300"``.

    Args:
        key: what they are, for messages.
        value: what was written.

    Raises:
        ContractError: it is anything else.
    """
    items: Any = value.split(",") if isinstance(value, str) else value
    found = [_count(item) for item in items] if isinstance(items, list) else []
    if not found or None in found:
        raise ContractError(
            f"{key}={value!r}, expected integers of at least 0, such as 1,16,300 on a command line "
            "or [1, 16, 300] in a file",
            item=key,
        )
    return tuple(count for count in found if count is not None)


def parse_sizes(value: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of n_in and n_hidden: a list of pairs, or ``"3x4,8x32"``.

    Raises:
        ContractError: it is anything else.
    """
    items: Any = value.split(",") if isinstance(value, str) else value
    found = [_pair(item) for item in items] if isinstance(items, list) else []
    if not found or None in found:
        raise ContractError(
            f"sizes={value!r}, expected pairs of n_in and n_hidden of at least 1, such as 3x4,8x32 "
            "on a command line or [[3, 4], [8, 32]] in a file",
            item="sizes",
        )
    return tuple(pair for pair in found if pair is not None)


def _pair(item: Any) -> tuple[int, int] | None:
    parts: Any = item.lower().split("x") if isinstance(item, str) else item
    if not isinstance(parts, list) or len(parts) != 2:
        return None
    n_in, n_hidden = (_count(part) for part in parts)
    return (n_in, n_hidden) if n_in and n_hidden else None


def _count(item: Any) -> int | None:
    if isinstance(item, str):
        text = item.strip()
        return int(text) if text.isascii() and text.isdigit() else None
    whole = isinstance(item, int) and not isinstance(item, bool) and item >= 0
    return item if whole else None


def _jobs(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ContractError(f"jobs={value!r}, expected an integer of at least 1")
    return value


def _timeout(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ContractError(f"timeout={value!r}, expected a number of seconds above 0")
    return float(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "examples": _examples,
    "seed": parse_seed,
    "dtypes": _dtypes,
    "checks": lambda value: _names("checks", value),
    "inconclusive": _inconclusive,
    "store": _store,
    "strict": _flag("strict"),
    "require": parse_require,
    "lengths": lambda value: parse_counts("lengths", value),
    "batches": lambda value: parse_counts("batches", value),
    "sizes": parse_sizes,
    "isolate": _flag("isolate"),
    "jobs": _jobs,
    "timeout": _timeout,
}


def _value(key: str, value: Any, path: Path) -> Any:
    if key not in _READERS:
        raise ContractError(
            f"{path}: unknown key {key!r} in {TABLE}{near(key, _READERS)} "
            f"(known: {', '.join(_READERS)})",
            item=key,
        )
    try:
        return _READERS[key](value)
    except ContractError as error:
        raise ContractError(f"{path}: {TABLE} {error}", item=key) from None
