"""Failures are stored, read with suspicion, run again, and shown without the package."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import replay, trees
from bpttcheck import strategies as bst
from bpttcheck.config import Settings
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.cases import build
from bpttcheck.replay.script import literal
from bpttcheck.results.records import Case, Diagnosis, Finding, Measured, Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject

SOURCE = Path(__file__).with_name("replay_cells.py")


def imported(path):
    name = f"replay_cells_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


wrong = imported(SOURCE)
CELLS = {
    name: getattr(wrong, f"{name}_state") for name in ("tuple", "namedtuple", "dict", "counted")
}


@pytest.fixture
def repaired(tmp_path):
    """The same cells without their errors."""
    path = tmp_path / "repaired_cells.py"
    path.write_text(SOURCE.read_text().replace("BROKEN = True", "BROKEN = False"))
    return imported(path)


def case(**changes):
    plain = {"seed": 5, "index": 3, "T": 3, "B": 2, "n_in": 2, "n_hidden": 3}
    return Case(**{**plain, "dtype": "float64", "mask": "none", "regime": "ordinary", **changes})


def found(problem, **changes):
    """A report with one finding of ``sequence_vjp``."""
    finding = Finding(
        "sequence_vjp", "step_vjp", "d_params['W']", "W is off", case=problem.case, entry=(0, 1),
        hand=2.0, jax=Measured(1.0, 1e-16), ratio=1e9, limit=32.0, problem=problem,
    )  # fmt: skip
    return Report("My cell", (), (replace(finding, **changes),), 7, 10, ("float64", "float32"))


def stored_one(folder, kind="tuple", target=None, **changes):
    problem = build(Subject.of(CELLS[kind]), case(**changes))
    (stored,) = replay.store(found(problem), folder, target)
    return stored


def same_bits(one, two):
    pairs = zip(trees.leaves(one), trees.leaves(two), strict=True)
    return trees.structure(one) == trees.structure(two) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs
    )


def assert_same_problem(one, two):
    assert one.case == two.case
    assert (one.mask is None) == (two.mask is None)
    for name in ("params", "xs", "state0", "d_ys", "d_state"):
        assert same_bits(getattr(one, name), getattr(two, name)), name
    assert one.mask is None or same_bits(one.mask, two.mask)


@given(data=st.data(), kind=st.sampled_from(list(CELLS)))
def test_what_is_stored_is_what_is_loaded(data, kind, tmp_path_factory):
    problem = data.draw(bst.problems(CELLS[kind]))
    report = found(problem, hand=data.draw(st.floats()), time_step=data.draw(st.integers(0, 9)))
    folder = tmp_path_factory.mktemp("failures")
    (stored,) = replay.store(report, folder, "cells.py:MyCell")
    loaded = replay.load(stored.id, folder)
    assert loaded.files() == stored.files()
    assert (loaded.subject, loaded.target, loaded.seed) == ("My cell", "cells.py:MyCell", 7)
    assert repr(replace(loaded.finding, problem=None)) == repr(
        replace(report.findings[0], problem=None)
    )
    own = CELLS[kind].initial_state(problem.params, problem.case.B)
    assert_same_problem(loaded.flat.restore(problem.case, trees.structure(own)), problem)


def test_the_same_failure_has_the_same_files_and_another_has_others(tmp_path):
    one, again = stored_one(tmp_path), stored_one(tmp_path)
    other = stored_one(tmp_path, seed=6)
    assert one.id == again.id != other.id
    assert re.fullmatch(r"my_cell-sequence_vjp-d_params_W-[0-9a-f]{6}", one.id)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".gitignore"} | {
        f"{s.id}{suffix}" for s in (one, other) for suffix in (".json", ".npz", ".py")
    }
    assert (tmp_path / ".gitignore").read_text().endswith("\n*\n")


def test_the_record_is_plain_json_and_the_arrays_are_no_pickles(tmp_path):
    stored = stored_one(tmp_path, "namedtuple")
    record = json.loads(stored.path.read_text())
    assert record["schema_version"] == 1
    assert record["bpttcheck"] == bpttcheck.__version__
    assert record["finding"]["jax"] == [1.0, 1e-16]
    assert record["problem"]["state"] == {
        "namedtuple": "State",
        "fields": [["h", None], ["c", None]],
    }
    with np.load(stored.path.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert arrays["state0_1"].shape == (2, 3)
        assert not any(arrays[name].dtype.hasobject for name in arrays.files)


def test_a_report_without_findings_writes_nothing(tmp_path):
    assert replay.store(Report("A", ()), tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_a_finding_without_a_problem_is_stored_by_its_seed(tmp_path):
    report = Report("A", (), (Finding("contract", "step", "y", "y is None"),), 3, 20, ("float32",))
    (stored,) = replay.store(report, tmp_path)
    assert [path.suffix for path in tmp_path.glob("a-contract*")] == [".json"]
    loaded = replay.load(stored.id, tmp_path)
    assert (loaded.seed, loaded.examples, loaded.dtypes, loaded.flat) == (3, 20, ("float32",), None)


def test_an_expected_failure_that_passed_is_not_stored(tmp_path):
    finding = Finding("masking", "", "expected_failures", "expected to fail, but passed")
    assert replay.store(Report("A", (), (finding,)), tmp_path / "none") == []


def test_the_oldest_failures_go_and_what_is_not_ours_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("bpttcheck.replay.stored.KEPT", 3)
    foreign = tmp_path / "theirs-step_vjp-W-abcdef.json"
    foreign.write_text("{}")
    (tmp_path / "notes.json").write_text("[]")
    for path in (foreign, tmp_path / "notes.json"):
        os.utime(path, (0, 0))
    kept = []
    for seed in range(6):
        kept.append(stored_one(tmp_path, seed=seed))
        for suffix in (".json", ".npz", ".py"):
            os.utime(kept[-1].path.with_suffix(suffix), (1000 + seed, 1000 + seed))
    stored_one(tmp_path, seed=5)
    left = {path.stem for path in tmp_path.glob("my_cell*")}
    assert left == {stored.id for stored in kept[-3:]}
    assert len(list(tmp_path.glob("my_cell*"))) == 9
    assert foreign.exists()
    assert (tmp_path / "notes.json").exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContractError, match="failures cannot be stored in"):
        stored_one(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ContractError, match="is a symbolic link, expected a folder"):
        stored_one(tmp_path / "link")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    stored = stored_one(tmp_path)
    before = stored.path.read_bytes()

    def broken(source, target):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(ContractError, match="the disk is full"):
        stored_one(tmp_path)
    assert stored.path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def forge(stored, change=None, packed=None):
    """Rewrite a failure with hashes that are right, as a stranger could."""
    record = json.loads(stored.path.read_text())
    if packed is not None:
        stored.path.with_suffix(".npz").write_bytes(packed)
        record["problem"]["npz_sha256"] = hashlib.sha256(packed).hexdigest()
    if change is not None:
        change(record)
    record.pop("sha256", None)
    record["sha256"] = hashlib.sha256(canonical(record).encode()).hexdigest()
    stored.path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JSON document"),
        ('{"format": "bpttcheck fai', "not a JSON document"),
        ("[" * 100_000, "not a JSON document"),
        ('{"format": NaN}', "NaN is not JSON"),
        ("[1, 2]", "not stored by bpttcheck"),
        ('{"format": "another"}', "not stored by bpttcheck"),
        ('{"format": "bpttcheck failure"}', "schema_version=None"),
        ('{"format": "bpttcheck failure", "schema_version": 99}', "a newer one wrote it"),
        ('{"format": "bpttcheck failure", "schema_version": 1}', "lacks 'bpttcheck'"),
        ("\xff\xfe", "cannot be replayed"),
    ],
)
def test_a_damaged_record_says_what_is_wrong_and_what_to_do(tmp_path, text, words):
    stored = stored_one(tmp_path)
    stored.path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ContractError, match=words) as caught:
        replay.load(stored.id, tmp_path)
    assert str(stored.path) in str(caught.value)
    assert "Delete it" in str(caught.value)


def setter(*path, value):
    def change(record):
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setter("extra", value=1), "unknown key 'extra'"),
        (setter("seed", value=-1), "seed=-1"),
        (setter("seed", value=True), "seed=True"),
        (setter("dtypes", value=[]), "dtypes="),
        (setter("subject", value="a\x1b[2Jb"), "subject is not plain text"),
        (setter("target", value=7), "target is not plain text"),
        (setter("finding", value=[]), "list where an object was expected"),
        (setter("finding", "check", value="os.system"), "check='os.system'"),
        (setter("finding", "hand", value="1"), "hand='1'"),
        (setter("finding", "hand", value=1), "hand=1"),
        (setter("finding", "entry", value=[-1]), "entry=-1"),
        (setter("finding", "jax", value=[1.0]), "jax is not a value with its error"),
        (setter("finding", "case", value=None), "has arrays but no case"),
        (setter("finding", "case", "T", value=4), "not those of its case"),
        (setter("finding", "case", "dtype", value="object"), "dtype='object'"),
        (setter("finding", "case", "seed", value=6), "its content is that of my_cell-"),
        (setter("problem", "params", value=["U", "U", "b"]), "names of the parameters"),
        (setter("problem", "params", value=["U"]), "not those of a problem"),
        (setter("problem", "state", value={"pickle": []}), "structure of the state"),
        (setter("problem", "state", value={"namedtuple": "f()", "fields": []}), "structure"),
        (setter("problem", "arrays", value=[["xs", "|O", [1]]]), "has the dtype"),
        (setter("problem", "arrays", value=[["xs", "<f8", [10**30, 10**30]]]), "not those of"),
        (setter("problem", "npz_sha256", value="0"), "does not match the sha256"),
        (setter("id", value="../../x"), "its content is that of my_cell-"),
    ],
)
def test_a_foreign_record_with_a_right_hash_is_refused(tmp_path, change, words):
    stored = stored_one(tmp_path)
    forge(stored, change)
    with pytest.raises(ContractError, match=words):
        replay.load(stored.id, tmp_path)


def test_an_edited_record_is_noticed(tmp_path):
    stored = stored_one(tmp_path)
    stored.path.write_text(stored.path.read_text().replace('"hand": 2.0', '"hand": 3.0'))
    with pytest.raises(ContractError, match="damaged or edited"):
        replay.load(stored.id, tmp_path)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def npz(members, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def npy(array, header=None):
    out = io.BytesIO()
    if header is None:
        np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(out, header)
        out.write(array.tobytes())
    return out.getvalue()


def _replaced(stored, name, data):
    members = {key: npy(array) for key, array in stored.flat.arrays.items()}
    return npz([*{**members, name: data}.items()])


HUGE = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
XS = {"descr": "<f8", "fortran_order": False, "shape": (3, 2, 2)}
FORGED = {
    "an object array": (lambda s: _replaced(s, "xs", npy(np.array([Bomb()], object))), "dtype"),
    "a pickle": (lambda s: pickle.dumps(Bomb()), "cannot be read"),
    "a pickle for a member": (lambda s: _replaced(s, "xs", pickle.dumps(Bomb())), "xs|magic"),
    "no zip": (lambda s: b"hello", "cannot be read"),
    "one array more": (lambda s: _replaced(s, "zz", npy(np.zeros(1))), "it holds"),
    "one array less": (lambda s: npz([("xs", npy(s.flat.arrays["xs"]))]), "it holds"),
    "compressed": (
        lambda s: npz([(k, npy(a)) for k, a in s.flat.arrays.items()], zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "a huge header": (lambda s: _replaced(s, "xs", npy(np.zeros(1), HUGE)), "has the dtype"),
    "too few bytes": (lambda s: _replaced(s, "xs", npy(np.zeros(1), XS)), "8 bytes of numbers"),
    "another dtype": (lambda s: _replaced(s, "xs", npy(np.zeros((3, 2, 2), int))), "int64"),
    "columns first": (
        lambda s: _replaced(s, "xs", npy(np.asfortranarray(np.zeros((3, 2, 2))))),
        "has the dtype",
    ),
    "no booleans": (
        lambda s: _replaced(
            s, "mask", npy(np.full(6, 2, np.uint8), {**XS, "descr": "|b1", "shape": (3, 2)})
        ),
        "neither true nor false",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_foreign_npz_with_a_right_hash_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    stored = stored_one(tmp_path, mask="lengths")
    make, words = FORGED[name]
    forge(stored, packed=make(stored))
    with pytest.raises(ContractError, match=words) as caught:
        replay.load(stored.id, tmp_path)
    assert "not written by bpttcheck" in str(caught.value)
    assert not Path("exploded").exists()


def test_the_bomb_would_have_exploded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.load(io.BytesIO(npy(np.array([Bomb()], object))), allow_pickle=True)
    assert Path("exploded").exists()


def test_missing_swapped_and_renamed_files_are_noticed(tmp_path):
    one, two = stored_one(tmp_path), stored_one(tmp_path, seed=6)
    arrays = one.path.with_suffix(".npz")
    arrays.write_bytes(two.path.with_suffix(".npz").read_bytes())
    with pytest.raises(ContractError, match="damaged, or another's"):
        replay.load(one.id, tmp_path)
    arrays.unlink()
    with pytest.raises(ContractError, match=r"its \.npz file is missing"):
        replay.load(one.id, tmp_path)
    one.path.write_bytes(two.path.read_bytes())
    arrays.write_bytes(two.path.with_suffix(".npz").read_bytes())
    with pytest.raises(ContractError, match="under another name"):
        replay.load(one.id, tmp_path)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", "", "a b", "lstm", "x-step_vjp-b-123456/", "C:\\x-y-123456"]
)
def test_an_id_is_no_path(tmp_path, name):
    with pytest.raises(ContractError, match=r"id=.*expected one such as"):
        replay.load(name, tmp_path)


def test_a_failure_may_be_named_by_its_file_and_an_unknown_one_is_said(tmp_path):
    stored = stored_one(tmp_path)
    assert replay.load(stored.path).id == replay.load(str(stored.path)).id == stored.id
    with pytest.raises(ContractError, match=r"no failure is stored as .*1 others are"):
        replay.load("lstm-step_vjp-d_params_b-3f2a1c", tmp_path)
    with pytest.raises(ContractError, match=r"name the one that ends in \.json"):
        replay.load(stored.path.with_suffix(".npz"))
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(ContractError, match="is not named like a stored failure"):
        replay.load(other)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_links_folders_and_giants_are_not_read(tmp_path, suffix):
    stored = stored_one(tmp_path)
    path = stored.path.with_suffix(suffix)
    moved = path.rename(tmp_path / f"elsewhere{suffix}")
    path.symlink_to(moved)
    with pytest.raises(ContractError, match="is a symbolic link"):
        replay.load(stored.id, tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ContractError, match="is not a plain file"):
        replay.load(stored.id, tmp_path)
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(2**28)
    with pytest.raises(ContractError, match="more than bpttcheck writes"):
        replay.load(stored.id, tmp_path)


def test_a_list_has_what_is_readable_and_says_what_is_not(tmp_path):
    one, two = stored_one(tmp_path), stored_one(tmp_path, seed=6)
    os.utime(two.path, (1000, 1000))
    two.path.write_bytes(two.path.read_bytes()[:-30])
    os.utime(two.path, (1000, 1000))
    (first, content, age), (second, error, old) = replay.listed(tmp_path)
    assert (first, content.id, second) == (one.path, one.id, two.path)
    assert isinstance(error, ContractError)
    assert 0 <= age < 1000 < old
    assert replay.listed(tmp_path / "nowhere") == []


@pytest.fixture(scope="module")
def one_failure(tmp_path_factory):
    return stored_one(tmp_path_factory.mktemp("fuzz"), "dict", mask="lengths")


edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)


@given(
    edits=edits,
    suffix=st.sampled_from([".json", ".npz"]),
    way=st.sampled_from(["set", "cut", "insert"]),
)
def test_random_damage_gives_an_error_or_the_same_record(one_failure, edits, suffix, way):
    record, packed = one_failure.files()
    files = {".json": record.encode(), ".npz": packed}
    data = bytearray(files[suffix])
    for where, byte in edits:
        at = int(where * (len(data) - 1))
        if way == "set":
            data[at] = byte
        elif way == "insert":
            data.insert(at, byte)
        else:
            del data[at : at + byte]
            data = data or bytearray(b"\0")
    for end, content in {**files, suffix: bytes(data)}.items():
        one_failure.path.with_suffix(end).write_bytes(content)
    try:
        loaded = replay.load(one_failure.id, one_failure.path.parent)
    except ContractError:
        return
    assert loaded.files() == one_failure.files()


def places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from places(child, (*path, key))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(data=st.data(), value=json_values)
def test_a_forged_field_gives_an_error_or_a_record(one_failure, data, value):
    record, packed = one_failure.files()
    one_failure.path.write_text(record)
    one_failure.path.with_suffix(".npz").write_bytes(packed)
    path = data.draw(st.sampled_from(sorted(set(places(json.loads(record))) - {()}, key=repr)))
    forge(one_failure, setter(*path, value=value))
    try:
        loaded = replay.load(one_failure.id, one_failure.path.parent)
    except ContractError:
        return
    assert loaded.id == one_failure.id


def verified(cell, check, examples=6):
    report = bpttcheck.check(cell, checks=[check], examples=examples, raises=False)
    assert report.verdict is Verdict.FAILED
    return report


LAWS = {
    "linearity": "Clipped",
    "batch_additivity": "Averaged",
    "time_splitting": "truncated",
    "causality": "looks_ahead",
    "masking": "ignores_mask",
    "zero_length": "from_nothing",
}
OTHERS = {
    "contract": "Misshapen",
    "purity": "Accumulating",
    "initial_state": "Trainable",
    "step_vjp": "Lossy",
    "sequence_vjp": "tuple_state",
}


def made(module, name):
    thing = getattr(module, name)
    return thing() if isinstance(thing, type) else thing


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("check", "name"), [*LAWS.items(), *OTHERS.items()])
def test_every_check_fails_again_and_passes_once_repaired(tmp_path, repaired, check, name):
    report = verified(made(wrong, name), check)
    assert (report.findings[0].problem is None) == (check == "contract")
    stored = replay.store(report, tmp_path)[0]
    loaded = replay.load(stored.id, tmp_path)
    again = replay.rerun(loaded, made(wrong, name))
    assert again.verdict is Verdict.FAILED
    first = again.findings[0]
    expected = (check, stored.finding.block, stored.finding.hand)
    assert (first.check, first.block, first.hand) == expected
    assert any(note.startswith(f"replayed {stored.id}: ") for note in again.notes)
    now = replay.rerun(loaded, made(repaired, name))
    assert now.verdict is Verdict.PASSED, str(now)
    assert str(now)


def test_differences_alone_find_it_again(tmp_path, repaired):
    report = verified(wrong.Untraceable(), "step_vjp")
    stored = next(s for s in replay.store(report, tmp_path) if s.finding.block == "d_x")
    assert stored.finding.jax is None
    assert replay.rerun(stored, wrong.Untraceable()).verdict is Verdict.FAILED
    assert replay.rerun(stored, repaired.Untraceable()).verdict is Verdict.PASSED


def test_code_that_raises_raises_again(tmp_path, repaired):
    problem = build(Subject.of(wrong.Raising()), case(B=1))
    report = found(problem, check="linearity", block="step_vjp", exception="one row")
    (stored,) = replay.store(report, tmp_path)
    again = replay.rerun(stored, wrong.Raising())
    assert "one row is too few" in again.findings[0].message
    assert replay.rerun(stored, repaired.Raising()).passed


@pytest.mark.parametrize(
    ("check", "name"), [("batch_additivity", "Averaged"), ("contract", "Misshapen")]
)
def test_an_announced_failure_still_fails_in_a_replay(tmp_path, check, name):
    stored = replay.store(verified(made(wrong, name), check), tmp_path)[0]
    subject = Subject(made(wrong, name), expected_failures={check: "known"})
    assert replay.rerun(stored, subject).verdict is Verdict.FAILED


@pytest.mark.nightly
def test_a_problem_that_is_no_evidence_is_undecided(tmp_path):
    stored = replay.store(verified(wrong.ignores_mask, "masking"), tmp_path)[0]
    layer = wrong.Net("")
    layer.supports_mask = False
    report = replay.rerun(stored, layer)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.checks[0].skipped == "supports_mask is False"


def test_a_diagnosis_is_kept_as_long_as_the_number_is_the_same(tmp_path, repaired):
    report = verified(wrong.Averaged(), "batch_additivity")
    why = (Diagnosis("batch-reduction", "a mean for a sum"),)
    finding = replace(report.findings[0], diagnoses=why)
    (stored,) = replay.store(replace(report, findings=(finding,)), tmp_path)
    assert replay.rerun(stored, wrong.Averaged()).findings[0].diagnoses == why


@pytest.mark.parametrize(("kind", "other"), [("tuple", "namedtuple"), ("dict", "tuple")])
def test_another_state_is_refused_with_what_it_is(tmp_path, kind, other):
    with pytest.raises(ContractError, match="stored for another state than that of"):
        replay.rerun(stored_one(tmp_path, kind), CELLS[other])


def test_other_parameters_are_refused_with_their_shapes(tmp_path):
    with pytest.raises(ContractError, match=r"parameters of the shapes .*'W': \(3, 3\)"):
        replay.rerun(stored_one(tmp_path), bpttcheck.cells.LSTM())


def run_alone(script):
    """Run a script where neither the package nor JAX can be imported."""
    code = (
        "import sys, runpy\n"
        "for name in ('bpttcheck', 'jax', 'scipy', 'hypothesis'): sys.modules[name] = None\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(script)], capture_output=True, text=True
    )


def script_of(tmp_path, monkeypatch, report, name):
    """Store a report as a user would, and the script of its first finding."""
    monkeypatch.chdir(tmp_path)
    Path("pack").mkdir(exist_ok=True)
    Path("pack/cells_of_mine.py").write_text(SOURCE.read_text())
    stored = replay.store(report, ".bpttcheck", f"pack/cells_of_mine.py:{name}")[0]
    return stored.path.with_suffix(".py").resolve()


def repair():
    path = Path("pack/cells_of_mine.py")
    path.write_text(path.read_text().replace("BROKEN = True", "BROKEN = False"))


def gradient_report(kind, **changes):
    """A finding of ``sequence_vjp`` with the right value for W, as JAX would give it."""
    cell = CELLS[kind]
    problem = build(Subject.of(cell), case(**changes))
    run = Run(Subject.of(cell), 0, ["float64"])
    hand = run.code.run(SEQUENCE, problem).gradients["d_params['W']"]
    right, eps = hand / 2, float(np.finfo(problem.dtype).eps)
    jax = Measured(float(right[0, 1]), 4 * eps * float(np.abs(right).max()))
    return found(problem, hand=float(hand[0, 1]), jax=jax, entry=(0, 1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mask", ["none", "holes", "empty_rows"])
@pytest.mark.parametrize("kind", CELLS)
def test_the_script_shows_the_failure_with_numpy_alone(tmp_path, monkeypatch, kind, mask):
    dtype = "float32" if mask == "holes" else "float64"
    report = gradient_report(kind, mask=mask, dtype=dtype, T=4, B=3)
    script = script_of(tmp_path, monkeypatch, report, f"{kind}_state")
    assert "sys.path.insert" in script.read_text()
    done = run_alone(script)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    lines = dict(re.findall(r"^(hand|JAX) +(\S+)", done.stdout, re.MULTILINE))
    finding = report.findings[0]
    assert float(lines["hand"]) == pytest.approx(finding.hand, rel=1e-6)
    assert float(lines["JAX"]) == finding.jax.value
    differences = [float(x) for x in re.findall(r"^differences +(\S+)", done.stdout, re.MULTILINE)]
    assert len(differences) == 5
    assert differences[2] == pytest.approx(finding.jax.value, rel=1e-5)
    assert done.stdout.endswith("still wrong\n")
    repair()
    done = run_alone(script)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.endswith("right now\n")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("check", "name"),
    [
        ("linearity", "Clipped"),
        ("batch_additivity", "Averaged"),
        ("time_splitting", "truncated"),
        ("zero_length", "from_nothing"),
        ("initial_state", "Trainable"),
        ("purity", "Accumulating"),
        ("step_vjp", "make"),
        ("step_vjp", "Rooms.Inner.lossy"),
        ("step_vjp", "Untraceable"),
    ],
)
def test_the_script_of_every_check_fails_until_the_cell_is_repaired(
    tmp_path, monkeypatch, check, name
):
    cell = {"make": wrong.make(), "Rooms.Inner.lossy": wrong.Lossy()}.get(name)
    report = verified(made(wrong, name) if cell is None else cell, check)
    script = script_of(tmp_path, monkeypatch, report, name)
    done = run_alone(script)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    repair()
    done = run_alone(script)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_an_entry_of_one_step_is_that_of_the_first_step(tmp_path, monkeypatch):
    problem = build(Subject.of(wrong.Lossy()), case(T=1))
    hand = Run(Subject.of(wrong.Lossy()), 0, ["float64"]).code.run("step", problem).gradients["d_x"]
    report = found(
        problem, check="step_vjp", block="d_x", entry=(1, 0), hand=float(hand[1, 0]),
        jax=Measured(2 * float(hand[1, 0]), 1e-15),
    )  # fmt: skip
    script = script_of(tmp_path, monkeypatch, report, "Lossy")
    assert run_alone(script).stdout.endswith("still wrong\n")
    repair()
    assert run_alone(script).stdout.endswith("right now\n")


@pytest.mark.parametrize("check", LAWS)
def test_the_place_of_a_number_of_a_law_is_where_a_plain_run_has_it(check):
    law = importlib.import_module(f"bpttcheck.verify.checks.{check}").LAW
    subject = Subject.of(wrong.Net(""))
    run = Run(subject, 0, ["float64"])
    problem = build(subject, case(T=4))
    for block, values in law.actual(run, problem).items():
        if block.startswith("shape of"):
            continue
        for entry in np.ndindex(np.shape(values)):
            moved, name, where = law.place(problem, block, entry)
            hand = run.code.run(SEQUENCE, moved)
            plain = {**hand.gradients, **hand.forward}[name]
            assert plain[where] == pytest.approx(values[entry], rel=1e-12, abs=1e-14)


@pytest.mark.nightly
def test_a_law_about_outputs_has_no_script(tmp_path):
    (stored,) = replay.store(verified(wrong.Mixed(), "batch_additivity"), tmp_path)
    assert stored.finding.block == "ys"
    assert not stored.path.with_suffix(".py").exists()


def test_a_script_that_no_longer_belongs_is_deleted(tmp_path, monkeypatch):
    stored = stored_one(tmp_path)
    assert stored.path.with_suffix(".py").exists()
    monkeypatch.setattr("bpttcheck.replay.script.MOST_NUMBERS", 3)
    assert stored_one(tmp_path).id == stored.id
    assert not stored.path.with_suffix(".py").exists()
    assert replay.load(stored.id, tmp_path).flat is not None


@pytest.mark.parametrize("target", [None, "odd name.py:Cell", "cells.py:a-b", "a b:c"])
def test_without_a_target_a_line_is_left_to_fill_in(tmp_path, target):
    problem = build(Subject.of(CELLS["tuple"]), case())
    report = replace(found(problem), subject="a\n'''\" cell\x1b")
    (stored,) = replay.store(report, tmp_path, target)
    script = stored.path.with_suffix(".py")
    assert (
        script.read_text().count("cell = None  # FILL IN: make the cell that was checked as") == 1
    )
    done = run_alone(script)
    assert done.returncode == 2
    assert "fill in the line that makes the cell" in done.stderr


def test_a_builtin_is_made_by_its_name(tmp_path):
    cell = bpttcheck.cells.LSTM()
    problem = build(Subject.of(cell), case())
    report = found(problem, block="d_params['b']", entry=(0,), jax=Measured(0.0, 1e-16))
    (stored,) = replay.store(report, tmp_path, "lstm")
    done = subprocess.run(
        [sys.executable, stored.path.with_suffix(".py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the differences decide" in done.stdout  # the stored value is made up
    assert done.stdout.endswith("right now\n")


@given(data=st.data(), kind=st.sampled_from(list(CELLS)))
def test_the_example_evaluates_to_the_very_problem(data, kind, tmp_path_factory):
    problem = data.draw(bst.problems(CELLS[kind]))
    (stored,) = replay.store(found(problem), tmp_path_factory.mktemp("examples"))
    text = replay.example(stored)
    taken = []
    scope = {"State": wrong.State, "example": lambda problem: taken.append(problem)}
    for line in re.findall(r"^# (.*import.*)$", text, re.MULTILINE)[::2]:
        exec(line, scope)
    body = text[text.index("@example") + 1 :]
    eval(body, scope)
    assert_same_problem(taken[0], problem)
    assert max(map(len, text.splitlines())) <= 100


def test_the_example_runs_in_hypothesis(tmp_path):
    from hypothesis import Phase, example, settings

    text = replay.example(stored_one(tmp_path, "namedtuple"))
    seen = []
    source = (
        f"{text}\n@given(problem=bst.problems(cell))\ndef test(problem):\n    seen.append(problem)"
    )
    scope = {"example": example, "bst": bst, "np": np, "given": given, "seen": seen}
    scope |= {"State": wrong.State, "cell": CELLS["namedtuple"]}
    exec(source, scope)
    settings(phases=[Phase.explicit])(scope["test"])()
    assert [problem.case for problem in seen] == [case()]


def test_a_failure_without_a_problem_has_no_example(tmp_path):
    report = Report("A", (), (Finding("contract", "step", "y", "y is None"),), 3, 20, ("float32",))
    (stored,) = replay.store(report, tmp_path)
    with pytest.raises(ContractError, match="there is no @example"):
        replay.example(stored)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (2, 1, 40)])
def test_a_literal_gives_back_the_same_bits(dtype, shape):
    bits = random.Random(1).randbytes(8 * max(1, int(np.prod(shape))))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(bits[:size], np.uint8)
    array = (array % 2).astype(bool) if dtype == "bool" else array.view(dtype)
    array = np.where(array == array, array, array.dtype.type(0))  # the payload of a NaN may change
    special = array.reshape(shape).copy()
    if special.size > 2 and dtype.startswith("float"):
        special.flat[:3] = [-0.0, np.inf, -np.inf]
    back = eval(literal(special), {"np": np})
    assert (back.dtype, back.shape) == (special.dtype, shape)
    assert back.tobytes() == special.tobytes()


def test_a_literal_has_no_more_digits_than_its_dtype():
    assert literal(np.float32([0.1, -1.3])) == "np.array([0.1, -1.3], np.float32)"


def test_the_default_folder_is_that_of_the_settings():
    assert Settings().store == replay.DIRECTORY
