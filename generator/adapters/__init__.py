"""LoRA adapters: put into models, base adapters, files that other tools read, what a model was loaded from."""
