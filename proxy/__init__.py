"""The HTTP, WebSocket and gRPC front."""
