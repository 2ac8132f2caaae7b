"""Run folders: their files, life cycle, states, and writes that are whole or absent."""
