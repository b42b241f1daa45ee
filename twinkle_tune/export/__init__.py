"""What a profile's winners are elsewhere: mappings that run without this package."""
