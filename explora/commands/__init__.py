"""The commands: parse, build a configuration, call the core, render. No loops, no tensors."""
