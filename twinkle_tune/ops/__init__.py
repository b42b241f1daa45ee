"""Our own kernels: an op a folder, each with its Triton kernels, its formula, its space of configs and its defaults."""
