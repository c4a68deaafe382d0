"""Whether a change of the program left every verdict and every ratio as it was."""
