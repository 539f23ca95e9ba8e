"""Generators: give one answer per (prompt, sample). One file each; the file name is the name."""
