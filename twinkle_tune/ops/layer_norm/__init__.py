"""LayerNorm: each row less its mean, divided by its standard deviation."""
