"""An addition and the RMSNorm of the sum, in one kernel: RMSNorm's."""
