"""fairseq models: the networks of ``nn`` registered by name."""
