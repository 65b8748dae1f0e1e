"""Forecasts of a training's memory, and the plan that follows."""
