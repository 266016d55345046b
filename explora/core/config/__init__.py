"""What a run is: models, methods and tasks by name, the settings, and which value wins. Light: no torch."""
