"""Solver against surrogate at equal error; `workbench.speedup` puts the parts together.

`starts` and `contestants` say who forecasts what, `errors` and `clock` measure it, `front` and `ratios` compare,
`sheet` writes it down.
"""
