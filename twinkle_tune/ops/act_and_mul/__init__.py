"""The middle of a gated MLP: an activation of the gate, times up."""
