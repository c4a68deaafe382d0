"""The adjoint of a traced step as NumPy source, in the names of the step, and as LaTeX.

``recording`` runs the step on arrays without numbers and notes every operation; ``traces`` does so
at several sizes; ``backward`` accumulates in reverse with the rules of ``rules`` and ``*_rules``;
``writing`` and ``latex_text`` write it down. It sees a step and never a backward pass.
"""
