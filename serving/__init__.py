"""Serve Python classes and functions over HTTP, WebSocket and gRPC."""
