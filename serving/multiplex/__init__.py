"""`@serving.multiplexed`: many models, of which each replica holds those that were used last.

policy     which model is loaded next, and which one leaves for it; no clock, no loop
cache      the models of one loader function on one event loop: their loads, users and ends
decorator  what stands in the place of the user's function
"""

from serving.multiplex.decorator import multiplexed

__all__ = ["multiplexed"]
