"""Whether a candidate computes what the original computes: the rule, its controls and the judge."""
