"""The share of planted bugs for which the edit that mends them is found and proved."""
