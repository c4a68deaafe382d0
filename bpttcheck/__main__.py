"""``python -m bpttcheck``: the command line."""

from bpttcheck.cli import main

main()
