"""Explanations: where the boundary lies, what crosses it."""
