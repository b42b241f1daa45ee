"""The user's own script: which models it calls and how, what is applied while it runs, what is tuned after it."""
