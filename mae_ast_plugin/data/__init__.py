"""fairseq datasets: manifests of clips as batches of waveforms."""
