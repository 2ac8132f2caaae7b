"""Batch cluster jobs for chest X-ray pneumonia classification: train, tune, score, schedule."""

__version__ = "0.1.0"
