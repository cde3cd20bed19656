"""Choosing a replica, queueing and retrying."""
