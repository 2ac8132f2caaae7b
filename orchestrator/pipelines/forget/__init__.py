"""forget: one patient out of every run of a folder."""
