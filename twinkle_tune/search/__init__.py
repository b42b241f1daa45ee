"""Look for the fastest config of a kernel: propose, time, race the best. The only room that knows Optuna."""
