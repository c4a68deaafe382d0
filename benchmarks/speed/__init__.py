"""How fast the layers are: a page of what was asked and measured, and a pytest-benchmark suite."""
