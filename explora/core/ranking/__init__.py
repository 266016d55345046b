"""Many runs of one task, scored on the same rows, compared in pairs and ranked."""
