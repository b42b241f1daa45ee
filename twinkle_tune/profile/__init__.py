"""Profiles: what was found out, kept as versioned JSON."""
