"""Networks, training loop, inference engines and bundles: the only importer of keras."""

import os

# TensorFlow reads it when it is loaded; what it would print is noise on the terminal and in logs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
