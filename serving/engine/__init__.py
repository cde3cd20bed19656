"""Engines place processes on machines."""
