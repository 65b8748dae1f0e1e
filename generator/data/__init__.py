"""Prompts, demonstrations and the cache of encoded videos on disk."""
