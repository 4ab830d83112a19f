"""Floor 7: the command line. One file a command; `main` picks it."""
