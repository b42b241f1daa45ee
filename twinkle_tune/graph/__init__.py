"""Modules as graphs of torch.fx: traced, searched for patterns, rewritten, shown."""
