"""Rollups: tables of aggregates that always add up."""
