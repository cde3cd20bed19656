"""The replica process: runs one copy of a deployment."""
