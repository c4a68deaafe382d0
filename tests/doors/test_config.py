"""The table [tool.bpttcheck]: what it may say, and what is said when it says something else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bpttcheck.config import (
    ORACLES,
    Settings,
    check_names,
    draw_seed,
    find,
    near,
    parse_counts,
    parse_require,
    parse_seed,
    parse_sizes,
    read,
)
from bpttcheck.errors import ContractError
from bpttcheck.subject import options


def write(folder: Path, table: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(f"[tool.bpttcheck]\n{table}\n", encoding="utf-8")
    return path


def test_the_defaults_are_those_of_the_core() -> None:
    import inspect

    from bpttcheck.verify.check import check

    parameters = inspect.signature(check).parameters
    for key in ("examples", "seed", "dtypes", "checks"):
        assert getattr(Settings(), key) == parameters[key].default


def test_every_key_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'examples = 7\nseed = "random"\ndtypes = ["float32"]\nchecks = ["purity"]\n'
        'inconclusive = "skip"\nstore = "here"\nstrict = true\nrequire = ["jax"]\n'
        "lengths = [1, 16]\nbatches = [0, 3]\nsizes = [[3, 4], [8, 32]]\nisolate = false\n"
        "jobs = 3\ntimeout = 2",
    )
    assert read(path) == Settings(
        7, "random", ("float32",), ("purity",), "skip", "here", True, ("jax",), (1, 16), (0, 3),
        ((3, 4), (8, 32)), False, 3, 2.0,
    )  # fmt: skip


def test_only_what_differs_from_the_defaults_is_handed_on(tmp_path: Path) -> None:
    assert Settings().check_options() == {}
    path = write(tmp_path, 'strict = true\nsizes = ["3x4"]')
    assert read(path).check_options() == {"strict": True, "sizes": ((3, 4),)}


def test_every_key_stands_in_the_help() -> None:
    from dataclasses import fields

    from bpttcheck.cli import main

    assert all(f"  {field.name} = " in str(main.epilog) for field in fields(Settings))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool]\nbpttcheck = 3\n", "bpttcheck = 3 is int"),
        ("tool = 'bpttcheck'\n", "tool = bpttcheck is str"),
        ("[[tool.bpttcheck]]\nseed = 1\n", "is a list of tables"),
        ("[[tool]]\nbpttcheck = 1\n", "is a list of tables"),
    ],
)
def test_a_table_that_is_none_is_told_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    with pytest.raises(ContractError) as caught:
        read(path)
    for part in (str(path), words, "should be a table", "[tool.bpttcheck]"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "good", "value"),
    [
        (partial(parse_counts, "lengths"), "1,16, 300", (1, 16, 300)),
        (partial(parse_counts, "batches"), [0, 2], (0, 2)),
        (parse_sizes, "3x4,8X32", ((3, 4), (8, 32))),
        (parse_sizes, [[3, 4]], ((3, 4),)),
        (parse_require, ("jax",), ("jax",)),
        (parse_require, ["torch", "differences"], ("torch", "differences")),
    ],
)
def test_numbers_and_names_are_read_as_they_are_typed(parse: Any, good: Any, value: Any) -> None:
    assert parse(good) == value


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("strict = 1", "strict=1, expected true or false"),
        ('require = ["jaxx"]', "did you mean 'jax'?"),
        ("require = []", "not empty"),
        ("lengths = []", "lengths=[], expected integers of at least 0"),
        ("lengths = [1.5]", "lengths=[1.5]"),
        ("lengths = [true]", "lengths=[True]"),
        ("batches = [-1]", "batches=[-1]"),
        ("batches = 3", "batches=3"),
        ("sizes = [[3]]", "sizes=[[3]], expected pairs of n_in and n_hidden"),
        ("sizes = [[0, 4]]", "of at least 1"),
        ('sizes = ["3*4"]', "3x4,8x32"),
        ("isolate = 0", "isolate=0, expected true or false"),
        ("timeout = 0", "timeout=0, expected a number of seconds above 0"),
        ("timeout = true", "timeout=True"),
        ("jobs = 0", "jobs=0, expected an integer of at least 1"),
    ],
)
def test_a_wrong_value_of_a_newer_key_is_told(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        read(write(tmp_path, table))
    assert words in str(caught.value)
    assert "pyproject.toml" in str(caught.value)


def test_without_a_file_or_a_table_the_defaults_hold(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "bpttcheck-user"\n')
    assert read(None) == read(tmp_path / "pyproject.toml") == Settings()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("exmples = 7", ["unknown key 'exmples'", "did you mean 'examples'?", "seed"]),
        ("examples = 0", ["examples=0", "at least 1"]),
        ("examples = true", ["examples=True"]),
        ("seed = -1", ["seed=-1", "natural number"]),
        ("seed = true", ["seed=True"]),
        ('seed = "rnd"', ["seed='rnd'", "'random'"]),
        ('dtypes = ["float16"]', ["float16", "did you mean 'float"]),
        ("dtypes = []", ["not empty"]),
        ('checks = "purity"', ["checks='purity'", "list of names"]),
        ('inconclusive = "pass"', ["inconclusive='pass'", "'skip'"]),
        ("examples = = 3", ["cannot be read as TOML"]),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(tmp_path: Path, table: str, words: list[str]) -> None:
    path = write(tmp_path, table)
    with pytest.raises(ContractError) as caught:
        read(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_the_nearest_file_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find(inner) == find(tmp_path) == path


def test_seeds_are_numbers_or_drawn() -> None:
    assert parse_seed("12") == parse_seed(12) == 12
    assert draw_seed(12) == 12
    drawn = {draw_seed(parse_seed("random")) for _ in range(5)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_a_wrong_check_is_named_with_its_likeness() -> None:
    with pytest.raises(ContractError, match=r"'puriti'; did you mean 'purity'\?"):
        check_names(["puriti"], ["contract", "purity"])
    assert check_names(None, ["contract", "purity"]) == ("contract", "purity")
    assert near("zzz", ["contract"]) == ""


def test_the_oracles_that_can_be_required_are_those_of_check() -> None:
    assert options.ORACLES == ORACLES
