"""A person reads the least certain images of a scoring run, and the answers come back."""
