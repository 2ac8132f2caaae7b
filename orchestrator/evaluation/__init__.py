"""Metrics, calibration, plots and reports. Imports neither ray nor keras."""
