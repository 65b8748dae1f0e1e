"""Super-resolution stages in space and time behind a base model (Imagen Video, arXiv 2210.02303)."""
