"""The registry: versions of models that never change, and which of them are live."""
