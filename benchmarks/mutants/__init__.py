"""Every planted bug in every built-in cell: how many are caught, and rightly named."""
