"""What is decided by the machine, once per run: device, precision, threads, attention kernel."""
