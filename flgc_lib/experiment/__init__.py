"""The experiment: from settings to trained networks, records, and the tables computed from them.

In reading order: `settings`, `assignments` (S and T through a training), `checkpoint`, `schedule` (of the groups),
`optimisers`, `training`, `records`, `runs`, `sweep` over `grids`; `analysis`, and what it answers: `contrasts`, `arms`,
`frontier`, `conclusion`; trained networks, tested once more: `deploy`, `ablation`.
"""
