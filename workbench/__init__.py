"""Workbench: trustworthy neural surrogates and forecasts from simulation output and measurements."""

__version__ = "0.1.0"
