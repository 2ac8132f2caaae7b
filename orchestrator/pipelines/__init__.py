"""The commands that run on the cluster: prepare, train, tune, score."""
