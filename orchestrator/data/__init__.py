"""Inputs: listing, decoding, splits and phantoms. Imports neither ray nor keras."""
