"""The same checks, with their cases and laws spread over the workers of an executor."""
