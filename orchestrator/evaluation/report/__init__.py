"""Reports a person reads: pages, tables and plots."""
