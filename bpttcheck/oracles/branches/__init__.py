"""The branches that native NumPy code takes, recorded while it runs."""
