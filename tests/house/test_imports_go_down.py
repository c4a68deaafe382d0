"""The floors of the house: imports go down, never in a circle, and two wings never meet."""

import ast
import importlib
import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("bpttcheck").origin).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    # the ground: NumPy alone
    [
        "errors",
        "trees",
        "contract",
        "traits",
        "signature",
        "calibration",
        "blocks",
        "lazy",
        "jax_mode",
        "warning_scope",
        "activity",
    ],
    ["activations", "losses"],
    # two wings: the zoo of subjects, and the oracles
    ["cells", "adapt"],
    ["bptt", "networks", "oracles"],
    # the checker, from what it is given to what it says
    ["subject"],
    ["results"],
    ["problems", "strategies"],
    ["judge"],
    ["diagnose"],
    ["verify"],
    # instruments
    ["replay", "mutants", "on_jax", "deferred"],
    ["selftest", "bench", "remedy", "derivation"],
    # entry points
    ["config", "cli", "pytest_plugin", "__init__", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
ZOO = {"cells", "bptt", "networks"}
MOST_MODULES = 20
"""In one folder, its index not counted."""


def dotted(path):
    parts = ("bpttcheck", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {dotted(path): path for path in MODULES}


def room(name):
    """The package of the first level, or the module there."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports(source):
    """Dotted names imported anywhere in the source, late imports included, typing-only ones not."""
    return list(imported(source))


def imported(source):
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


def heaps(paths):
    """Folders with more modules than anybody looks through, by their path in the package."""
    sizes = Counter(
        path.parent.relative_to(PACKAGE).as_posix() for path in paths if path.name != "__init__.py"
    )
    return [name for name, size in sizes.items() if size > MOST_MODULES]


def prefixes(paths):
    """More than three files that share the beginning of their names are a package."""
    stems = [(path.parent, path.stem.strip("_")) for path in paths]
    heads = Counter((parent, stem.split("_")[0]) for parent, stem in stems if "_" in stem)
    return [f"{folder.name}/{head}_*" for (folder, head), count in heads.items() if count > 3]


def namesakes(sources):
    """Public classes that more than one module defines."""
    homes = {}
    for name, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    return {name: found for name, found in homes.items() if len(found) > 1}


def test_no_folder_is_a_heap():
    assert heaps(MODULES) == []
    many = [PACKAGE / "judge" / f"m{n}.py" for n in range(MOST_MODULES + 1)]
    assert heaps(many) == ["judge"]
    assert heaps(many[1:]) == []


def test_no_prefix_stands_for_a_folder():
    assert prefixes(MODULES) == []
    few = [PACKAGE / "verify" / f"_replay_{n}.py" for n in range(4)]
    assert prefixes(few) == ["verify/replay_*"]
    assert prefixes(few[1:]) == []


def test_no_two_classes_have_one_name():
    assert namesakes({name: path.read_text() for name, path in NAMES.items()}) == {}
    two = {
        "a": "class Point: ...",
        "b": "class Point: ...\nclass _Own: ...",
        "c": "class _Own: ...",
    }
    assert namesakes(two) == {"Point": ["a", "b"]}


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


def test_no_lazy_name_is_that_of_a_module():
    """Importing such a module would put it in the place of what the index loads."""
    found = {}
    for path in sorted(PACKAGE.rglob("__init__.py")):
        text = path.read_text()
        if "= index(__name__" not in text:
            continue
        package = importlib.import_module(
            ".".join(("bpttcheck", *path.relative_to(PACKAGE).parts[:-1]))
        )
        modules = {one.stem for one in path.parent.iterdir() if one.suffix == ".py" or one.is_dir()}
        if clash := set(package.__all__) & modules:
            found[path.parent.name] = clash
    assert found == {}
