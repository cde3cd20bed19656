"""The control plane: keeps the replicas that ought to exist in existence."""
