"""Where a candidate's code comes from: a file a kind, each with a digest that changes when the code does."""
