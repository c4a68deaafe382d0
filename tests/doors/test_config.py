"""The table [tool.bpttcheck]: what it may say, and what is said when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpttcheck.config import Settings, check_names, draw_seed, find, near, parse_seed, read
from bpttcheck.errors import ContractError


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
        'inconclusive = "skip"',
    )
    assert read(path) == Settings(7, "random", ("float32",), ("purity",), "skip")


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
