"""The floors of the house: imports go down, never in a circle, and two wings never meet."""

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("bpttcheck").origin).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    # the ground: NumPy alone
    ["errors", "trees", "contract", "calibration", "lazy", "jax_mode", "warning_scope", "activity"],
    ["activations", "losses"],
    # two wings: the zoo of subjects, and the oracles
    ["cells", "adapt"],
    ["bptt", "networks", "on_jax", "oracles"],
    # the checker, from what it is given to what it says
    ["subject"],
    ["results"],
    ["problems", "strategies"],
    ["judge"],
    ["diagnose"],
    ["verify"],
    # instruments
    ["replay", "mutants"],
    ["selftest", "bench"],
    # entry points
    ["config", "cli", "pytest_plugin", "__init__", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
ZOO = {"cells", "bptt", "networks", "on_jax"}
MOST_MODULES = 20
"""In one folder, its index not counted. The tracer has as many kinds of NumPy call."""
LARGER = {"oracles/tracer": 22}


def dotted(path):
    parts = ("bpttcheck", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {dotted(path): path for path in MODULES}


def room(name):
    """The package of the first level, or the module there."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source):
    """Dotted names imported anywhere in the source, late imports included, typing-only ones not."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else node.module


def going_up(name, source):
    here = room(name)
    for target in imports(source):
        there = room(target)
        if not target.startswith("bpttcheck.") or there not in LEVEL:
            continue
        if LEVEL[there] > LEVEL[here]:
            yield f"{name} imports {target}: up from floor {LEVEL[here]} to {LEVEL[there]}"
        if {here, there} in [{one, "oracles"} for one in ZOO]:
            yield f"{name} imports {target}: the two wings must stay independent"


def circles(graph):
    """Modules that import each other, directly or through others."""
    left = {name: set(targets) & set(graph) for name, targets in graph.items()}
    # Whoever imports nothing that is left stands in no circle.
    while free := [name for name, targets in left.items() if not targets & set(left) - {name}]:
        for name in free:
            del left[name]
    while used := set(left) - {t for name, targets in left.items() for t in targets - {name}}:
        for name in used:
            del left[name]
    return sorted(left)


def test_no_import_goes_up_and_the_wings_do_not_meet():
    found = [
        line
        for name, path in NAMES.items()
        if name != "bpttcheck"
        for line in going_up(name, path.read_text())
    ]
    assert found == []


def test_no_modules_import_each_other():
    graph = {name: set(imports(path.read_text())) for name, path in NAMES.items()}
    assert circles(graph) == []


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == set(LEVEL)


def test_no_folder_is_a_heap():
    sizes = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    heaps = {
        str(folder.relative_to(PACKAGE)): size
        for folder, size in sizes.items()
        if size > LARGER.get(str(folder.relative_to(PACKAGE)), MOST_MODULES)
    }
    assert heaps == {}


def test_no_prefix_stands_for_a_folder():
    """Three files that share the beginning of their names are a package."""
    heads = Counter(
        (path.parent, path.stem.strip("_").split("_")[0])
        for path in MODULES
        if "_" in path.stem.strip("_")
    )
    assert [f"{folder.name}/{head}_*" for (folder, head), n in heads.items() if n > 3] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bpttcheck.errors", "from bpttcheck.judge.run import Run"),
        ("bpttcheck.bptt.unroll", "import bpttcheck.oracles.tracer.trace"),
        (
            "bpttcheck.oracles.tracer.trace",
            "def f():\n    from bpttcheck.bptt.unroll import unroll",
        ),
        ("bpttcheck.verify.check", "from bpttcheck import cli"),
        ("bpttcheck.judge.run", "from bpttcheck.diagnose import rule"),
    ],
)
def test_a_planted_import_that_goes_up_is_found(module, line):
    assert list(going_up(module, line))


def test_a_planted_circle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == ["b", "c"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_two_classes_have_one_name():
    homes = {}
    for name, path in NAMES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
