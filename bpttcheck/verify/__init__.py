"""Verification: problems, checks, verdicts and the door that runs them."""
