"""Looks at a ranking from elsewhere and says what is wrong with it: `python -m eval.audit --help`."""
