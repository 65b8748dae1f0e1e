"""People: who may come in, who works on what, and what they are told."""
