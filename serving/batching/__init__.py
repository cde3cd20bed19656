"""`@serving.batch`: single calls, gathered into calls on lists.

policy     which items make a batch, and when; no clock, no loop
queue      the calls of one function on one event loop
function   the user's function on lists: its arguments and its answers
decorator  what stands in the place of the user's function, for each instance
"""

from serving.batching.decorator import BatchedCall, BatchedMethod, batch

__all__ = ["BatchedCall", "BatchedMethod", "batch"]
