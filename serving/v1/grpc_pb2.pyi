from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GrpcTag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRPC_TAG_UNSPECIFIED: _ClassVar[GrpcTag]
    GRPC_REQUEST: _ClassVar[GrpcTag]
    GRPC_MESSAGE: _ClassVar[GrpcTag]
    GRPC_METADATA: _ClassVar[GrpcTag]
    GRPC_STATUS: _ClassVar[GrpcTag]
    GRPC_HALF_CLOSE: _ClassVar[GrpcTag]
GRPC_TAG_UNSPECIFIED: GrpcTag
GRPC_REQUEST: GrpcTag
GRPC_MESSAGE: GrpcTag
GRPC_METADATA: GrpcTag
GRPC_STATUS: GrpcTag
GRPC_HALF_CLOSE: GrpcTag

class GrpcRequest(_message.Message):
    __slots__ = ("method", "metadata", "peer", "request_id", "application", "multiplexed_model_id", "message")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    method: str
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    peer: str
    request_id: str
    application: str
    multiplexed_model_id: str
    message: bytes
    def __init__(self, method: _Optional[str] = ..., metadata: _Optional[_Iterable[bytes]] = ..., peer: _Optional[str] = ..., request_id: _Optional[str] = ..., application: _Optional[str] = ..., multiplexed_model_id: _Optional[str] = ..., message: _Optional[bytes] = ...) -> None: ...

class GrpcMetadata(_message.Message):
    __slots__ = ("metadata",)
    METADATA_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, metadata: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GrpcStatus(_message.Message):
    __slots__ = ("code", "details", "trailing_metadata", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: str
    trailing_metadata: _containers.RepeatedScalarFieldContainer[bytes]
    message: bytes
    def __init__(self, code: _Optional[int] = ..., details: _Optional[str] = ..., trailing_metadata: _Optional[_Iterable[bytes]] = ..., message: _Optional[bytes] = ...) -> None: ...

class GrpcServices(_message.Message):
    __slots__ = ("methods", "files")
    METHODS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedCompositeFieldContainer[GrpcMethod]
    files: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, methods: _Optional[_Iterable[_Union[GrpcMethod, _Mapping]]] = ..., files: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GrpcMethod(_message.Message):
    __slots__ = ("name", "request_streaming", "response_streaming")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_STREAMING_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_STREAMING_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_streaming: bool
    response_streaming: bool
    def __init__(self, name: _Optional[str] = ..., request_streaming: bool = ..., response_streaming: bool = ...) -> None: ...
