"""A failure that is kept: stored, loaded, judged again, and as a script that needs NumPy alone."""
