"""One case judged: the code beside its oracles, the error bars, the counts, the smallest case."""
