"""What places processes on machines."""
