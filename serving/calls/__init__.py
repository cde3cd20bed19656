"""Calls of deployments by other deployments and by scripts.

caller.py         calls from one process, on one event loop
process.py        the one caller of a process
payload.py        Python values on a stream
errors.py         exceptions on a stream
"""
