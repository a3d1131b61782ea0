"""Score sound that is still coming: files that land in a folder, and streams."""
