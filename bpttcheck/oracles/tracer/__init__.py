"""Plain NumPy code traced by JAX, unmodified."""
