"""A linear layer and the cross entropy of what it gives, a chunk of rows at a time."""
