"""What ``make demo`` does: writes a small synthetic corpus, pretrains on it by command, and shows what came of it."""
