"""Solvers that make the truth: each a recipe source with a template and a simulation."""
