"""Benchmarks: sets of prompts with what a good model does on each. One file each; the file name is the name."""
