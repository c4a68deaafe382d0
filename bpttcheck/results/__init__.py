"""What a run found: records, and how they read."""
