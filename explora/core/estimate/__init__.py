"""Closed forms, without torch: parameters, file sizes, memory and floating-point operations."""
