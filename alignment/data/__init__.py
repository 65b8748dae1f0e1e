"""Training data: latents of videos, batched by shape or packed into rows."""
