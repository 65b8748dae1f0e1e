"""Win rates of models by people who compared their videos."""
