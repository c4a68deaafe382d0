"""The same checks, with their cases and laws distributed over the workers of an executor."""
