"""See ``__main__``."""
