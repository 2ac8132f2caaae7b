"""What there is to read: folders, tables and addresses, listed and named."""
