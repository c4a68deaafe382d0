"""Measures how long a backward pass takes, beside JAX autodiff and others that do the same work."""
