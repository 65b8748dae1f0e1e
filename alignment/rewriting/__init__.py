"""Prompts rewritten for a generator, by the world's grammar or by language models; the training of such a model."""
