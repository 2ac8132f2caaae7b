"""Networks, training loop, inference engines and bundles: the only importer of keras."""
