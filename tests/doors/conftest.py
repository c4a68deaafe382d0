"""What the tests of the doors share: a project with a stand-in for the core, and a command line."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bpttcheck
import bpttcheck.verify.check  # loaded before pytester takes its snapshot of the modules

HERE = Path(__file__).parent
# Before click 8.2 the two streams were one unless asked for.
_APART: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
)


@pytest.fixture
def fake_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in as a module, installed for one test; the working directory is new."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("BPTTCHECK_ISOLATE", "0")  # another process would not have the stand-in
    shutil.copy(HERE / "fake_core.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(vars(bpttcheck), "check", None)
    sys.modules.pop("fake_core", None)
    import fake_core  # type: ignore[import-not-found]

    fake_core.install()
    yield fake_core
    sys.modules.pop("fake_core", None)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytest project whose conftest installs the stand-in; also for workers of xdist."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setitem(vars(bpttcheck), "check", bpttcheck.verify.check.check)  # put back after
    shutil.copy(HERE / "fake_core.py", pytester.path)
    pytester.makeconftest("import fake_core\nfake_core.install()\n")
    pytester.syspathinsert()
    return pytester


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """The command line in this process: ``cli("verify", "lstm")``."""

    def run(*args: str, **options: Any) -> Result:
        from bpttcheck.cli import main

        return CliRunner(**_APART).invoke(main, list(args), prog_name="bpttcheck", **options)

    return run
