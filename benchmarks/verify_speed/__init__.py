"""How fast a verdict comes, beside the harness that one would write by hand."""
