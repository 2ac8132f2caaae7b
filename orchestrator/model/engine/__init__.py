"""Inference engines: OpenVINO for CPUs, Keras for GPUs, behind one interface."""
