"""Files that come into the store and leave it."""
