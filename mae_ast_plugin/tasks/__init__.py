"""fairseq tasks: pretraining over manifests of audio."""
