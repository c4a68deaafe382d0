"""A copy of the repository inside a project, as for its CI, leaves their pytest alone."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

OURS = "def test_ours():\n    raise AssertionError\n"
THEIRS = """\
from hypothesis import settings

def test_theirs():
    assert settings().max_examples == 100
"""


def test_plain_pytest_runs_their_tests_and_none_of_ours(tmp_path):
    copy = tmp_path / "bpttcheck"
    (copy / "tests").mkdir(parents=True)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "tests" / "test_ours.py").write_text(OURS)
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nfilterwarnings = ['error']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
