"""Makes videos: models, families, sampling, the built-in video world, video files."""
