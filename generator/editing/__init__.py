"""Videos from images and videos: extending, connecting, editing."""
