"""A Linear layer and the activation after it."""
