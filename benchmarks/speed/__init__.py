"""The grid of cells, dtypes and sizes as a pytest-benchmark suite."""
