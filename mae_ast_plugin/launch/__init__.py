"""What happens between the command line and fairseq's training loop: recipes, early checks, repairs of the engine."""
