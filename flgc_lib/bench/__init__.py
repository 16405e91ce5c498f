"""The benchmark: `settings` says how much, `candidates` and `gpu` what, `measure` times it, `report` shows it."""
