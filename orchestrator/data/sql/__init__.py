"""One table over the runs of a folder: found at a path or an address, asked in SQL."""
