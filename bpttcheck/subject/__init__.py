"""The code under test: what it says of itself, how it is called, and what it returns."""
