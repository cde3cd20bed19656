from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallTag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALL_TAG_UNSPECIFIED: _ClassVar[CallTag]
    CALL: _ClassVar[CallTag]
    RESULT: _ClassVar[CallTag]
    ITEM: _ClassVar[CallTag]
    ERROR: _ClassVar[CallTag]
    BUFFER: _ClassVar[CallTag]
CALL_TAG_UNSPECIFIED: CallTag
CALL: CallTag
RESULT: CallTag
ITEM: CallTag
ERROR: CallTag
BUFFER: CallTag

class Call(_message.Message):
    __slots__ = ("method", "stream", "arguments", "request_id", "route", "application", "multiplexed_model_id")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    method: str
    stream: bool
    arguments: Payload
    request_id: str
    route: str
    application: str
    multiplexed_model_id: str
    def __init__(self, method: _Optional[str] = ..., stream: bool = ..., arguments: _Optional[_Union[Payload, _Mapping]] = ..., request_id: _Optional[str] = ..., route: _Optional[str] = ..., application: _Optional[str] = ..., multiplexed_model_id: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("pickled", "buffers")
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    pickled: bytes
    buffers: _containers.RepeatedCompositeFieldContainer[Buffer]
    def __init__(self, pickled: _Optional[bytes] = ..., buffers: _Optional[_Iterable[_Union[Buffer, _Mapping]]] = ...) -> None: ...

class Buffer(_message.Message):
    __slots__ = ("inline", "following", "shared")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    inline: bytes
    following: int
    shared: SharedMemory
    def __init__(self, inline: _Optional[bytes] = ..., following: _Optional[int] = ..., shared: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class SharedMemory(_message.Message):
    __slots__ = ("pid", "fd", "size", "inode")
    PID_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    pid: int
    fd: int
    size: int
    inode: int
    def __init__(self, pid: _Optional[int] = ..., fd: _Optional[int] = ..., size: _Optional[int] = ..., inode: _Optional[int] = ...) -> None: ...

class CallError(_message.Message):
    __slots__ = ("pickled", "type_name", "text", "traceback")
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    pickled: bytes
    type_name: str
    text: str
    traceback: str
    def __init__(self, pickled: _Optional[bytes] = ..., type_name: _Optional[str] = ..., text: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...
