"""Scoring folders of X-rays."""
