"""What happens between the command line and fairseq's training loop: recipes, checks before time is spent, repairs of the engine."""
