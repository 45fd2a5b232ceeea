"""fairseq criterions: the losses of masked prediction, registered by name."""
