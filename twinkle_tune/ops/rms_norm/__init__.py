"""RMSNorm: each row divided by the root of the mean of its squares."""
