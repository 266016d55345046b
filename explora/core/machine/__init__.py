"""The machine's resources and this process's use of them. Importing this package does not load torch."""
