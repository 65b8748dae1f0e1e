"""Weights as other tools name and store them: LoRA files and single files of a base."""
