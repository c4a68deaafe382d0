"""The index of operators: adding one takes its function and its line here."""

from __future__ import annotations

from bpttcheck.mutants.source import matrices, names, products, sums

# Of two operators that write the same, the first one counts: the one that knows the diagnosis.
OPERATORS = (
    products.other_derivative,
    products.drop_power,
    products.drop_factor,
    products.drop_activation,
    products.change_constant,
    sums.drop_term,
    sums.flip_sign,
    sums.negate_value,
    sums.drop_minus,
    sums.change_update,
    sums.drop_reassignment,
    matrices.drop_transpose,
    matrices.move_transpose,
    matrices.add_transpose,
    matrices.swap_operands,
    matrices.reduce_otherwise,
    names.swap_values,
    names.swap_blocks,
    names.swap_targets,
    names.swap_returned,
    names.other_name,
    names.earlier_name,
)
