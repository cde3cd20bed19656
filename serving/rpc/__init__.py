"""What users' gRPC services are: their methods, and the metadata of calls."""
