"""Readers of foreign files, each a source of a recipe."""
