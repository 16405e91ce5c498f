"""The experiment: from settings to trained networks, records, and the tables computed from them.

In reading order: `settings`, `assignments` (S and T through a training), `checkpoint`, `training`, `records`, `sweep`
over `grids`, `analysis`.
"""
