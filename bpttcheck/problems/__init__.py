"""Problems to judge code on: sizes, values, larger sizes, and noise on arrays."""
