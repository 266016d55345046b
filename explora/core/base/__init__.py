"""Pretrained weights and their tokenizer: found, fetched, read and written."""
