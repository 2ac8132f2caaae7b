"""Cluster launcher files: read, checked, turned into Kubernetes manifests."""
