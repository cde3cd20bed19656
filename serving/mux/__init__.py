"""Many streams over one gRPC call: frames, batching, flow control."""
