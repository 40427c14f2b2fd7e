"""Many compiles at once: models × targets × options, one row each."""
