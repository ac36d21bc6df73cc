"""What makes a result say less than it seems to: near-duplicates, photos a network was trained on, other pixels."""
