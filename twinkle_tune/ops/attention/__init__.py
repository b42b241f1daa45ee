"""Attention that never holds all of its scores."""
