from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrameType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_TYPE_UNSPECIFIED: _ClassVar[FrameType]
    OPEN: _ClassVar[FrameType]
    DATA: _ClassVar[FrameType]
    RESET: _ClassVar[FrameType]
    WINDOW_UPDATE: _ClassVar[FrameType]
    REJECT: _ClassVar[FrameType]
    GOAWAY: _ClassVar[FrameType]

class ResetCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESET_CODE_UNSPECIFIED: _ClassVar[ResetCode]
    CANCEL: _ClassVar[ResetCode]
    TIMEOUT: _ClassVar[ResetCode]
    INTERNAL_ERROR: _ClassVar[ResetCode]
    PROTOCOL_ERROR: _ClassVar[ResetCode]
    FLOW_CONTROL_ERROR: _ClassVar[ResetCode]
FRAME_TYPE_UNSPECIFIED: FrameType
OPEN: FrameType
DATA: FrameType
RESET: FrameType
WINDOW_UPDATE: FrameType
REJECT: FrameType
GOAWAY: FrameType
RESET_CODE_UNSPECIFIED: ResetCode
CANCEL: ResetCode
TIMEOUT: ResetCode
INTERNAL_ERROR: ResetCode
PROTOCOL_ERROR: ResetCode
FLOW_CONTROL_ERROR: ResetCode

class Frame(_message.Message):
    __slots__ = ("stream_id", "type", "end_stream", "more", "tag", "data", "timeout_us", "window_increment", "code", "reason", "last_stream_id")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    END_STREAM_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    WINDOW_INCREMENT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LAST_STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    type: FrameType
    end_stream: bool
    more: bool
    tag: int
    data: bytes
    timeout_us: int
    window_increment: int
    code: ResetCode
    reason: str
    last_stream_id: int
    def __init__(self, stream_id: _Optional[int] = ..., type: _Optional[_Union[FrameType, str]] = ..., end_stream: bool = ..., more: bool = ..., tag: _Optional[int] = ..., data: _Optional[bytes] = ..., timeout_us: _Optional[int] = ..., window_increment: _Optional[int] = ..., code: _Optional[_Union[ResetCode, str]] = ..., reason: _Optional[str] = ..., last_stream_id: _Optional[int] = ...) -> None: ...

class ClientFrames(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class ServerFrames(_message.Message):
    __slots__ = ("frames", "ongoing", "holdings")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    ongoing: int
    holdings: Holdings
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ..., ongoing: _Optional[int] = ..., holdings: _Optional[_Union[Holdings, _Mapping]] = ...) -> None: ...

class Holdings(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...
