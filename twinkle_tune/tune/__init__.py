"""From a model to a profile: contests, choices, and the check of the whole model."""
