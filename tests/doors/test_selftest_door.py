"""`bpttcheck selftest` and its pytest form: what was planted, caught, missed, and why."""

import json

import pytest

import bpttcheck.selftest as room
from bpttcheck.pytest_plugin import PlantedBugs
from bpttcheck.selftest import Planted, SelfTest

CAUGHT = Planted(
    "sign of d_x", "sign", "d_x has the wrong sign", "caught", check="step_vjp", named="d_x",
    right_block=True, diagnosis="sign", said=("sign",), right_diagnosis=True,
)  # fmt: skip
MISNAMED = Planted(
    "d_x missing", "path", "d_x is zero", "caught", check="step_vjp", named="d_x",
    right_block=True, diagnosis="missing-path", said=("scale",), right_diagnosis=False,
)  # fmt: skip
UNSEEN = Planted(
    "d_x * 1.000000000001", "scale", "d_x is off", "invisible", "below the resolution, 1e-05",
    diagnosis="scale",
)  # fmt: skip
MISSED = Planted("d_y ignored", "path", "d_y is ignored", "missed", diagnosis="missing-path")


@pytest.fixture
def planted(monkeypatch):
    """What the next self-test finds, and what it was asked."""
    asked = {}

    def set_to(*bugs):
        def stub(subject, **options):
            asked.update(options, subject=subject)
            return SelfTest("Elman", bugs, options.get("seed", 0), 100, 1.5)

        monkeypatch.setattr(room, "selftest", stub)
        return asked

    return set_to


def test_all_caught_is_a_pass(cli, planted):
    planted(CAUGHT, UNSEEN)
    done = cli("selftest", "elman")
    assert done.exit_code == 0
    assert done.stdout.startswith("PASSED  Elman: 1 of 1 planted bugs caught, 0 missed")
    assert "not visible here:\n  d_x * 1.000000000001: below the resolution, 1e-05" in done.stdout
    assert "right diagnosis first 1/1" in done.stdout.splitlines()[-1]


def test_a_missed_bug_is_named_and_fails(cli, planted):
    planted(CAUGHT, MISSED)
    done = cli("selftest", "elman")
    assert done.exit_code == 1
    assert done.stdout.startswith("FAILED  Elman: 1 of 2 planted bugs caught, 1 missed")
    assert "missed:\n  d_y ignored: d_y is ignored" in done.stdout


def test_a_wrong_diagnosis_is_shown_but_does_not_fail(cli, planted):
    planted(MISNAMED)
    done = cli("selftest", "elman")
    assert done.exit_code == 0
    assert "diagnosed otherwise:\n  d_x missing: scale, not missing-path" in done.stdout


def test_every_bug_is_named_on_request(cli, planted):
    planted(CAUGHT, UNSEEN)
    done = cli("selftest", "elman", "--verbose")
    assert "  sign of d_x: caught by step_vjp: d_x sign" in done.stdout


def test_the_options_are_passed_on(cli, planted):
    asked = planted(CAUGHT)
    cli("selftest", "elman", "--family", "sign", "--seed", "3", "--examples", "7")
    assert (asked["families"], asked["seed"], asked["examples"]) == (("sign",), 3, 7)


def test_json_is_one_document(cli, planted):
    planted(CAUGHT, MISSED)
    document = json.loads(cli("selftest", "elman", "--json").stdout)
    assert document["passed"] is False
    assert [one["outcome"] for one in document["planted"]] == ["caught", "missed"]


def test_an_unknown_target_or_family_is_a_usage_error(cli):
    assert cli("selftest", "no_such_cell").exit_code == 2
    done = cli("selftest", "elman", "--family", "sings", "--examples", "1")
    assert done.exit_code == 2
    assert "sings" in done.stderr


def test_in_pytest_a_missed_bug_fails_the_test(planted):
    asked = planted(MISSED)
    with pytest.raises(pytest.fail.Exception, match="d_y ignored"):
        PlantedBugs({"seed": 5, "examples": 9, "executor": None})("a cell")
    assert (asked["seed"], asked["examples"], asked["subject"]) == (5, 9, "a cell")


def test_in_pytest_all_caught_passes(planted):
    planted(CAUGHT)
    PlantedBugs({})("a cell")
