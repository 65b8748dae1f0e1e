"""Inputs of models beside their latents: text, images, known frames, packed rows."""
