"""The demo: the whole loop on the built-in model, with a report."""
