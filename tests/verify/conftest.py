"""What the tests of diagnoses share: their planted bugs, and a check whose programs are shared."""

import sys
from pathlib import Path

import pytest

import bpttcheck
from bpttcheck.verify import check as check_room

sys.path.append(str(Path(__file__).parent))  # `planted_bugs` is a module of this folder


@pytest.fixture(scope="module")
def forks():
    from planted_bugs import Forks

    return Forks()


@pytest.fixture
def shared_runs(forks, monkeypatch):
    """All checks of one forward pass, in one module, share what JAX says of it."""
    monkeypatch.setattr(check_room, "Run", forks.make)


@pytest.fixture
def run(shared_runs):
    """``run(subject, *checks)``: the report of ``bpttcheck.check``."""

    def run(subject, *checks, examples=20, **options):
        options = {"examples": examples, "raises": False, "strict": False, **options}
        return bpttcheck.check(subject, checks=checks, **options)

    return run
