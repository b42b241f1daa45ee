"""Softmax over the last dimension, scaled and masked."""
