"""Reports of a benchmark; matplotlib is imported only to draw."""
