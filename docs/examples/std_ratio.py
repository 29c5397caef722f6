"""A metric of your own."""

from workbench.metrics.base import Metric
from workbench.metrics.fields import PREDICTION, PREDICTION_SQUARED, TRUTH, TRUTH_SQUARED, root_ratio, variance_of

STD_RATIO = Metric(
    "std_ratio",
    (PREDICTION, PREDICTION_SQUARED, TRUTH, TRUTH_SQUARED),
    lambda p, pp, t, tt: root_ratio(variance_of(p, pp), variance_of(t, tt)),
    "sqrt <(p - <p>)^2> / sqrt <(t - <t>)^2>; below 1 the forecast is smoother than the truth",
    "Taylor (2001), doi:10.1029/2000JD900719, normalised standard deviation",
    optimum=1.0,
    unit_power=0,
)
