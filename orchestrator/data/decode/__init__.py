"""From the bytes of one file to a grey image."""
