"""Contracts: what every member of an open folder must do."""
