"""Rows from files, known data sets and standard input; batches of them."""
