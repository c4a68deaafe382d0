"""Five published derivations of backpropagation through time, executed and judged.

``python docs/_make/make_derivations.py`` judges them all and writes
``docs/explanation/derivations.md``.

- ``a.py`` to ``e.py``: the formulas of one text each, in its notation, every reading as code;
  ``bounds.py``, ``remedies.py``, ``stack.py`` and ``machines.py`` hold what they say beyond
  gradients of one network.
- ``network.py``: the network they are about, with a tap at every quantity; ``sequence.py``: the
  same as the texts see it, column vectors by time step.
- ``grid.py``: the kinds of problem, and what JAX says of each with its error bars; ``judge.py``:
  verdicts and counterexamples; ``search.py``: the conditions under which a formula is right.
- ``end_to_end.py``: formulas as backward passes, for ``bpttcheck.check``; ``systems.py``: the
  systems that the texts describe; ``page.py``: the page.

To judge a formula of your own, write a ``Formula`` with its readings and give it to ``judge_all``.
"""
