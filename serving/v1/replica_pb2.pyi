from serving.v1 import frames_pb2 as _frames_pb2
from serving.v1 import grpc_pb2 as _grpc_pb2
from serving.v1 import http_pb2 as _http_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InvokeRequest(_message.Message):
    __slots__ = ("request", "body", "call", "message")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    request: _http_pb2.HttpRequest
    body: bytes
    call: _grpc_pb2.GrpcRequest
    message: bytes
    def __init__(self, request: _Optional[_Union[_http_pb2.HttpRequest, _Mapping]] = ..., body: _Optional[bytes] = ..., call: _Optional[_Union[_grpc_pb2.GrpcRequest, _Mapping]] = ..., message: _Optional[bytes] = ...) -> None: ...

class InvokeResponse(_message.Message):
    __slots__ = ("response", "body", "message")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    response: _http_pb2.HttpResponse
    body: bytes
    message: bytes
    def __init__(self, response: _Optional[_Union[_http_pb2.HttpResponse, _Mapping]] = ..., body: _Optional[bytes] = ..., message: _Optional[bytes] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ("check_timeout_s",)
    CHECK_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    check_timeout_s: float
    def __init__(self, check_timeout_s: _Optional[float] = ...) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("ongoing", "loop_lag_s", "unhealthy", "has_check")
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_S_FIELD_NUMBER: _ClassVar[int]
    UNHEALTHY_FIELD_NUMBER: _ClassVar[int]
    HAS_CHECK_FIELD_NUMBER: _ClassVar[int]
    ongoing: int
    loop_lag_s: float
    unhealthy: str
    has_check: bool
    def __init__(self, ongoing: _Optional[int] = ..., loop_lag_s: _Optional[float] = ..., unhealthy: _Optional[str] = ..., has_check: bool = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("replica_id", "state", "max_ongoing_requests", "user_config_json")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STARTING: _ClassVar[DescribeResponse.State]
        READY: _ClassVar[DescribeResponse.State]
        DRAINING: _ClassVar[DescribeResponse.State]
    STARTING: DescribeResponse.State
    READY: DescribeResponse.State
    DRAINING: DescribeResponse.State
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    USER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    state: DescribeResponse.State
    max_ongoing_requests: int
    user_config_json: str
    def __init__(self, replica_id: _Optional[str] = ..., state: _Optional[_Union[DescribeResponse.State, str]] = ..., max_ongoing_requests: _Optional[int] = ..., user_config_json: _Optional[str] = ...) -> None: ...

class ReconfigureRequest(_message.Message):
    __slots__ = ("max_ongoing_requests", "user_config_json")
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    USER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    max_ongoing_requests: int
    user_config_json: str
    def __init__(self, max_ongoing_requests: _Optional[int] = ..., user_config_json: _Optional[str] = ...) -> None: ...

class ReconfigureResponse(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("grace_s",)
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    grace_s: float
    def __init__(self, grace_s: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StacksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StacksResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
