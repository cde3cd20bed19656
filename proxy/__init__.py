"""The proxy process: takes HTTP and WebSocket requests and brings them to replicas."""
