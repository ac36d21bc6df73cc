"""Where weights come from, how they are read, and whether they fit."""
