"""The experiment: from settings to trained networks, records, and the tables computed from them.

In reading order: `settings`, `training` with its `checkpoint`, `assignments` (S and T through a training), `records`,
`sweep` over `grids`, `analysis`.
"""
