"""The machine in pure torch: tokens, positions, masking, transformer, autoencoder, losses. Knows no files and no
fairseq.
"""
