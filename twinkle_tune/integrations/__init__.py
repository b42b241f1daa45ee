"""Other libraries' trainings: a callback for each."""
