"""The benchmark: `settings` says how much, `candidates` what, `measure` times it, `report` shows it."""
