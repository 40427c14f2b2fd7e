"""Which engine, precision, variant and token schedule: built, gated, timed, scored, chosen."""
