"""The replica process: one copy of a deployment, behind gRPC.

process.py    the life of its process: start, ready, drain, stop
replica.py    the user's object, what serves it, and its end; with a process of its own or not
service.py    the data plane: connections and single invocations
runner.py     admission, and one task for each request
http.py, websocket.py   ASGI's receive and send, over a stream
callables.py  plain functions and classes as ASGI applications
lifespan.py   ASGI's lifespan protocol
control.py    the control plane, on a thread of its own
watchdog.py   says where the event loop is blocked
"""
