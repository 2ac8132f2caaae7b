"""Quantise a bundle: an int8 network beside its own, if both call images alike."""
