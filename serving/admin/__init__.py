"""The REST API of a cluster: a process of its own beside the proxies, in Ray Serve's shapes."""
