"""The benchmark: `candidates` says what is compared, `measure` times it, `report` shows it."""
