"""Conduct of methods: aliasing, layouts, reproducibility, uninitialised memory."""
