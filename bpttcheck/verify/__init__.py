"""Verification: the checks and the function that runs them."""
