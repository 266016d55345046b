"""Settings that depend on the machine, resolved once per run: device, precision, threads, attention."""
