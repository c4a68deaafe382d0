"""The code under test: its traits, how it is called, and what it returns."""
