"""LightningModules: a model, its loss, optimiser and schedule, and `advance`, one step of physical time."""

from workbench.tasks.anomalies import AnomalyMSE as AnomalyMSE
from workbench.tasks.diagnosis import DiagnosisTask as DiagnosisTask
from workbench.tasks.downscaling import DownscalingTask as DownscalingTask
from workbench.tasks.forecast import ForecastTask as ForecastTask
from workbench.tasks.lifetime import LifetimeTask as LifetimeTask
from workbench.tasks.losses import RelativeL2 as RelativeL2
from workbench.tasks.losses import WeightedMSE as WeightedMSE
from workbench.tasks.nelo import NELO as NELO
from workbench.tasks.transient import TransientTask as TransientTask
from workbench.tasks.weather import WeatherTask as WeatherTask
