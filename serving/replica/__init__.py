"""The replica process: one copy of a deployment, behind gRPC.

process.py    its life: start, ready, drain, stop
service.py    the data plane: connections and single invocations
runner.py     admission, and one task for each request
http.py, websocket.py   ASGI's receive and send, over a stream
callables.py  plain functions and classes as ASGI applications
lifespan.py   ASGI's lifespan protocol
control.py    the control plane, on a thread of its own
watchdog.py   says where the event loop is blocked
"""
