"""Running the model: which slots are called, how often, with what."""
