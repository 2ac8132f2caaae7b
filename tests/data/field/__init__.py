"""X-rays written in the ways that the field sends them."""
