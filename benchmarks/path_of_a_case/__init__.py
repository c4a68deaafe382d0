"""How often one turns back to a module on the way of a case from ``check`` to its verdict."""
