"""Real-time analytics on PostgreSQL and Citus."""

__version__ = "0.1.0"
