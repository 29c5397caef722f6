"""From forecasts to ``scores.nc``: sums block by block, scores with intervals, the table and the headline."""
