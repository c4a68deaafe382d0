"""Wrong backward passes of kinds that short, small, random problems do not show.

Each has ``kind``, ``where`` and ``exposure()``, the relative error where it is wrong.
``python -m benchmarks.wrong_cells`` asks `check` about all of them.
"""

from benchmarks.wrong_cells import memory, public, sizes, values

FAMILIES = {
    module.__name__.rpartition(".")[2]: module.CELLS for module in (sizes, values, memory, public)
}

CELLS = tuple(one for family in FAMILIES.values() for one in family)
