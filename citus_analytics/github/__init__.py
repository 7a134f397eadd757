"""GitHub's events: the first application of the library."""
