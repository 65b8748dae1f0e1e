"""Video LDM (arXiv 2304.08818): an image model becomes a video model by temporal layers beside its frozen ones."""
