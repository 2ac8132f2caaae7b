"""Whether a candidate may take the place of the model that is live."""
