"""Engines, compilation, tiling and memory of one machine."""
