"""The machine: the environment of a measurement, and its peak performance."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from bpttcheck import cells
from bpttcheck.bench.report.records import Size

_VARIABLES = (
    "XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_COMPILATION_CACHE_DIR",
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES", "PYTHONMALLOC", "PYTHONHASHSEED",
)  # fmt: skip
_PACKAGES = ("numpy", "scipy", "jax", "jaxlib", "torch")
UNKNOWN = "unknown"


def load_average() -> list[float] | None:
    """The load of the machine over the last 1, 5 and 15 minutes, where available."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def environment(
    load: list[float] | None = None, peak: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The environment, JSON-ready; call it when everything that is measured has been loaded.

    Args:
        load: :func:`load_average` before the run, which adds to the load itself.
        peak: :func:`bpttcheck.bench.machine.peak_gflops`, where it was measured.
    """
    import jax

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": processors(),
        "processors": os.cpu_count(),
        "load_average": UNKNOWN if load is None else load,
        "jax_device": str(jax.devices("cpu")[0].device_kind),
        "blas": _blas(),
        "threads": _threads(),
        "torch_threads": _torch_threads(),
        "peak_gflops": dict(peak or {}),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    return {**found, "warnings": warnings(found)}


def warnings(found: dict[str, Any]) -> list[str]:
    """Properties of an environment that may distort the ratios."""
    said = [
        f"{name}={value} restricts NumPy's products to an older instruction set than JAX uses"
        for name, value in found.get("variables", {}).items()
        if name in ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "MKL_ENABLE_INSTRUCTIONS")
    ]
    load, cores = found.get("load_average"), found.get("processors", found.get("cores"))
    known = isinstance(load, list) and isinstance(cores, int)
    told = busy(cast("list[float]", load), cast("int", cores)) if known else ""
    return [*said, *([f"the machine was busy before the run: {told}"] if told else [])]


def busy(load: list[float] | None, cores: int) -> str:
    """``load 1.4 on 2 cores`` where more than half of the cores were busy, else ``""``.

    The load is that of the whole machine.
    """
    if not load or load[0] <= 0.5 * cores:
        return ""
    return f"load {load[0]:.1f} on {cores} {'core' if cores == 1 else 'cores'}"


def processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or UNKNOWN
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else UNKNOWN


def _blas() -> str:
    import numpy as np

    try:
        found: Any = np.show_config(mode="dicts")
        blas = found["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return UNKNOWN


def _threads() -> Any:
    """Threads of the loaded libraries, where threadpoolctl is installed."""
    try:
        import threadpoolctl  # pyright: ignore[reportMissingImports] - not a dependency
    except ImportError:
        return UNKNOWN
    keys = ("internal_api", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keys} for pool in threadpoolctl.threadpool_info()]


def _torch_threads() -> Any:
    import sys

    torch = sys.modules.get("torch")
    return UNKNOWN if torch is None else torch.get_num_threads()


_WIDTH, _PRODUCTS = 1024, 4
_GATES: dict[type, int] = {
    cells.Elman: 1, cells.GRUResetAfter: 3, cells.GRUResetBefore: 3, cells.LSTM: 4,
}  # fmt: skip


def peak_gflops(dtypes: Sequence[str], width: int = _WIDTH) -> dict[str, float]:
    """Billions of operations a second in NumPy's product of two square matrices, the best of a few.

    It is the peak of this process, with its threads and its BLAS.

    Args:
        dtypes: the dtypes.
        width: of the matrices.
    """
    return {dtype: _peak(dtype, width) for dtype in dict.fromkeys(dtypes)}


def _peak(dtype: str, width: int) -> float:
    left, right, out = np.ones((3, width, width), dtype)
    took: list[float] = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        np.matmul(left, right, out=out)
        took.append(time.perf_counter() - started)
    return 2 * width**3 / max(min(took), 1e-9) / 1e9


def operations(cell: Any, size: Size) -> int | None:
    """Additions and multiplications in the products of forward and backward, ``6 T B g H (N + H)``.

    Forward, every entry of the ``g`` gates takes ``N + H`` multiplications and additions; backward
    takes twice that, for the inputs and for the weights. Elementwise operations are not counted.

    Args:
        cell: only built-in cells with a fused form are known; a subclass is another cell.
        size: the size.
    """
    gates = _GATES.get(type(cell))
    if gates is None:
        return None
    return 6 * size.T * size.B * gates * size.n_hidden * (size.n_in + size.n_hidden)
