"""Generated protobuf messages and gRPC stubs: the wire formats."""
