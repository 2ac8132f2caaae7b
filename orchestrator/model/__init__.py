"""Networks, training loop, inference engines and bundles: the only importer of keras."""

import os
import sys

# TensorFlow reads it when it is loaded; what it would print is noise on the terminal and in logs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# With it OpenVINO reports every import and every conversion to Google Analytics, and NNCF its use,
# nobody being asked; without it they report nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
