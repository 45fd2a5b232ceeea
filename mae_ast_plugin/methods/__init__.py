"""The published systems as data: one file each, with its values and the names of its checkpoints."""
