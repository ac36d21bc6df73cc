"""Many models on one image set: scored one by one, kept, ordered, shown. `python -m eval.leaderboard --help`."""
