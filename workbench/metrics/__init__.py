"""Scores: statistic -> weighted sum -> metric, xarray in and xarray out, lazy on dask.

`evaluate` scores a forecast; `spectra` and `stability` are modules of functions beside it.
"""

from workbench.metrics.base import Metric as Metric
from workbench.metrics.base import WeightedSums as WeightedSums
from workbench.metrics.base import concatenate as concatenate
from workbench.metrics.evaluation import METRICS as METRICS
from workbench.metrics.evaluation import accumulate as accumulate
from workbench.metrics.evaluation import describe as describe
from workbench.metrics.evaluation import evaluate as evaluate
from workbench.metrics.evaluation import find_metric as find_metric
from workbench.metrics.evaluation import finish as finish
