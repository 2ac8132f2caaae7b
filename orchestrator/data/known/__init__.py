"""What earlier runs have processed."""
