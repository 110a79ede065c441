"""Why they differ, in words."""
