"""Mitigations, one file each: `fit(lm, data) -> Intervention`."""
