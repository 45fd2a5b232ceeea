"""What a person does with a checkpoint at the command line: a module each, and what they share."""
