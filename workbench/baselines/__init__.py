"""Forecasts that every model stands beside, fitted on the training split and scored exactly like models."""
