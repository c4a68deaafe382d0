"""Measurements: scripts that a person runs, not tests."""
