"""The experiment: from settings to trained networks, records, and the tables computed from them.

In reading order: `settings`, `assignments` (S and T through a training), `checkpoint`, `schedule` (of the groups),
`optimisers`, `training`, `records`, `sweep` over `grids`, `analysis`.
"""
