"""Cross entropy of logits and class indices, with label smoothing and the z-loss."""
