"""Pretraining of the built-in generator."""
