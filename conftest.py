"""What every test shares: pytester, the Hypothesis profiles, and the programs JAX compiled."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Nothing of a copy of this repository that lies inside another project."""
    inside = config.rootpath != ROOT and collection_path.is_relative_to(ROOT)
    return True if inside else None


def pytest_configure(config: pytest.Config) -> None:
    if config.rootpath != ROOT:
        return
    # `benchmarks` is imported from here, at the end: the package itself is the installed one.
    sys.path.append(str(ROOT))
    settings.register_profile(
        "default", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI"))
    )
    settings.register_profile("nightly", deadline=None, max_examples=1000)
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("default")
    config.addinivalue_line("markers", "nightly: a deeper sweep; runs under the profile nightly")
    config.addinivalue_line(
        "markers", "sampled(n): n of its parameters, evenly spread; all under the profile nightly"
    )
    _share_programs(config)
    _compile_cheaply(config)


def _share_programs(config: pytest.Config) -> None:
    """JAX writes the programs of this session down: most tests compile what another one did.

    JAX reads the environment when it is imported; so do the workers and the processes of tests.
    """
    # Two processes may meet at one file: JAX then warns, and compiles for itself.
    config.addinivalue_line("filterwarnings", "ignore:Error .*persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # also that of a worker
        return
    folder = TemporaryDirectory(prefix="bpttcheck-programs-")
    config.add_cleanup(folder.cleanup)
    options = {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    os.environ |= {name.upper(): str(value) for name, value in options.items()}
    if "jax" in sys.modules:  # another plugin was faster
        for name, value in options.items():
            sys.modules["jax"].config.update(name, value)


def _compile_cheaply(config: pytest.Config) -> None:
    """XLA optimises nothing: programs of tests run once, and compiling them takes most of the time.

    Under the profile nightly, or where somebody gives XLA flags, it compiles as it does for users.
    """
    nightly = config.getoption("--hypothesis-profile") == "nightly"
    if nightly or "XLA_FLAGS" in os.environ or "jax" in sys.modules:
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.rootpath != ROOT:
        return
    if config.getoption("--hypothesis-profile") == "nightly":
        return
    skip = pytest.mark.skip(reason="a deeper sweep: pytest --hypothesis-profile=nightly")
    sampled: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)
        elif item.get_closest_marker("sampled"):
            sampled.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for rows in sampled.values():
        marker = rows[0].get_closest_marker("sampled")
        assert marker is not None
        step = max(1, -(-len(rows) // int(marker.args[0])))
        for number, item in enumerate(rows):
            if number % step:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk it a thousand times.

    A worker meets the same cells again and again: it keeps more programs than a user needs.
    """
    programs = sys.modules.get("bpttcheck.oracles.autodiff.programs")
    if programs is not None:
        programs.CACHE.most = 96
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # a test leaves little behind, and JAX allocates much


@pytest.fixture
def as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings stay as they are found: what makes them small and explains them compiles more."""
    monkeypatch.setattr("bpttcheck.verify.gradient_check.smallest", lambda *args: args[-1])
    monkeypatch.setattr("bpttcheck.diagnose.evidence.explain", lambda *args: ())
    monkeypatch.setattr("bpttcheck.diagnose.expected.with_expected", lambda _, found: list(found))


@pytest.fixture
def programs_apart() -> Iterator[None]:
    """No program of another test is met, none is left: for tests that change what is traced."""
    from bpttcheck.oracles.autodiff.programs import CACHE

    with CACHE.apart():
        yield
