from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class MessageTag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_TAG_UNSPECIFIED: _ClassVar[MessageTag]
    REQUEST: _ClassVar[MessageTag]
    RESPONSE: _ClassVar[MessageTag]
    BODY: _ClassVar[MessageTag]
    CONTINUE: _ClassVar[MessageTag]
    ACCEPT: _ClassVar[MessageTag]
    TEXT: _ClassVar[MessageTag]
    BINARY: _ClassVar[MessageTag]
    CLOSE: _ClassVar[MessageTag]
MESSAGE_TAG_UNSPECIFIED: MessageTag
REQUEST: MessageTag
RESPONSE: MessageTag
BODY: MessageTag
CONTINUE: MessageTag
ACCEPT: MessageTag
TEXT: MessageTag
BINARY: MessageTag
CLOSE: MessageTag

class HttpRequest(_message.Message):
    __slots__ = ("method", "scheme", "http_version", "raw_path", "query_string", "root_path", "headers", "client_host", "client_port", "server_host", "server_port", "request_id", "body", "websocket", "subprotocols", "route", "multiplexed_model_id")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HTTP_VERSION_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    QUERY_STRING_FIELD_NUMBER: _ClassVar[int]
    ROOT_PATH_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_HOST_FIELD_NUMBER: _ClassVar[int]
    CLIENT_PORT_FIELD_NUMBER: _ClassVar[int]
    SERVER_HOST_FIELD_NUMBER: _ClassVar[int]
    SERVER_PORT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    WEBSOCKET_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    method: str
    scheme: str
    http_version: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: _containers.RepeatedScalarFieldContainer[bytes]
    client_host: str
    client_port: int
    server_host: str
    server_port: int
    request_id: str
    body: bytes
    websocket: bool
    subprotocols: _containers.RepeatedScalarFieldContainer[str]
    route: str
    multiplexed_model_id: str
    def __init__(self, method: _Optional[str] = ..., scheme: _Optional[str] = ..., http_version: _Optional[str] = ..., raw_path: _Optional[bytes] = ..., query_string: _Optional[bytes] = ..., root_path: _Optional[str] = ..., headers: _Optional[_Iterable[bytes]] = ..., client_host: _Optional[str] = ..., client_port: _Optional[int] = ..., server_host: _Optional[str] = ..., server_port: _Optional[int] = ..., request_id: _Optional[str] = ..., body: _Optional[bytes] = ..., websocket: bool = ..., subprotocols: _Optional[_Iterable[str]] = ..., route: _Optional[str] = ..., multiplexed_model_id: _Optional[str] = ...) -> None: ...

class HttpResponse(_message.Message):
    __slots__ = ("status", "headers", "body")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.RepeatedScalarFieldContainer[bytes]
    body: bytes
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Iterable[bytes]] = ..., body: _Optional[bytes] = ...) -> None: ...

class WebSocketAccept(_message.Message):
    __slots__ = ("subprotocol", "headers")
    SUBPROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    subprotocol: str
    headers: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, subprotocol: _Optional[str] = ..., headers: _Optional[_Iterable[bytes]] = ...) -> None: ...

class WebSocketClose(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
