"""Records: stored, checked, looked at, varied and mixed."""
