"""Pretrained weights and their tokenizers: find, download, read and write them."""
