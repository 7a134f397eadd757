"""The command line of the core, on which applications put commands of their own."""
