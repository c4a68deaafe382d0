"""The file of a benchmark: what is written is what is read, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpttcheck.bench.report.records import Interval, load, parse
from bpttcheck.errors import ContractError

FILE = Path(__file__).parent / "report.json"
DOCUMENT = json.loads(FILE.read_text())


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    document = json.loads(FILE.read_text())
    change(document)
    return document


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    found = load(FILE)
    again = tmp_path / "again.json"
    again.write_text(found.to_json())
    assert load(again) == found
    assert has_all_of(json.loads(again.read_text()), DOCUMENT)


def has_all_of(new: Any, old: Any) -> bool:
    """Whether everything of ``old`` is in ``new``, which may have more keys."""
    if isinstance(old, dict):
        return all(has_all_of(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(has_all_of, new, old))
    return new == old


def test_a_file_from_before_floors_operations_and_samples_of_the_same_is_read() -> None:
    subject = load(FILE).subjects[0]
    assert subject.same is None
    point = subject.points[0]
    assert (point.again, point.flops, point.timings[0].floor) == ([], None, None)
    point = DOCUMENT["subjects"][0]["points"][0]
    assert not {"again", "flops"} & point.keys()


def test_what_a_later_version_has_is_read_as_strictly() -> None:
    document = changed(lambda d: d["subjects"][0]["points"][0]["timings"][0].update(floor="low"))
    with pytest.raises(ContractError, match=r"floor is 'low', expected float"):
        parse(document, "a.json")


def test_an_interval_holds_its_ends() -> None:
    interval = Interval(1.0, 0.9, 1.1)
    assert 0.9 in interval
    assert 1.1 in interval
    assert 1.11 not in interval


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "damaged, it is not JSON"),
        (FILE.read_text()[:5000], "damaged, it is not JSON"),
        ("[]", "no schema 'bpttcheck.bench'"),
        ('{"schema_version": 1, "reports": []}', "no schema 'bpttcheck.bench'"),
        ("3", "no schema"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ContractError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_does_not_exist_or_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="No such file"):
        load(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ContractError, match="it is no text"):
        load(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema_version=0), "schema_version 0, expected 1"),
        (lambda d: d.pop("schema_version"), "schema_version None, expected 1"),
        (lambda d: d.update(subjects=[]), "holds no measured point"),
        (lambda d: [s["points"].clear() for s in d["subjects"]], "holds no measured point"),
        (lambda d: d.pop("environment"), r"a\.json\.environment is missing"),
        (lambda d: d["subjects"][0]["points"][2]["size"].pop("T"),
         r"a\.json\.subjects\[0\]\.points\[2\]\.size\.T is missing"),
        (lambda d: d["subjects"][0]["points"][0]["size"].update(T=2.5), r"size\.T is '2\.5'"),
        (lambda d: d["subjects"][0]["points"][0]["size"].update(T=True), r"size\.T is 'True'"),
        (lambda d: d["subjects"][0]["points"][0].update(same=3), r"same is not of type Interval"),
        (lambda d: d["subjects"][0]["points"][0]["timings"][0].update(seconds=float("nan")),
         r"seconds is 'nan', expected float"),
        (lambda d: d["subjects"][0]["points"][0].update(timings={}), r"timings is '{}'"),
        (lambda d: d.update(forms=[]), r"forms is '\[\]', expected dict"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_told_with_its_place(
    change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        parse(changed(change), "a.json")


def test_what_a_later_version_adds_is_ignored() -> None:
    document = changed(lambda d: d["subjects"][0].update(colour="red"))
    assert parse(document, "a.json") == load(FILE)
