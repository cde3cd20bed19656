from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Code(_message.Message):
    __slots__ = ("import_path", "pickled", "sys_path")
    IMPORT_PATH_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    import_path: str
    pickled: bytes
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, import_path: _Optional[str] = ..., pickled: _Optional[bytes] = ..., sys_path: _Optional[_Iterable[str]] = ...) -> None: ...

class Package(_message.Message):
    __slots__ = ("digest", "source")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    source: str
    def __init__(self, digest: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class DeploymentOptions(_message.Message):
    __slots__ = ("num_replicas", "max_ongoing_requests", "max_queued_requests", "user_config_json", "graceful_shutdown_timeout_s", "graceful_shutdown_wait_loop_s", "health_check_period_s", "health_check_timeout_s", "ray_actor_options_json", "rolling_update_percentage", "max_surge_percent", "blocked_loop_timeout_s", "autoscaling_config_json", "autoscaling_policy_version", "max_replicas_per_node")
    NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    USER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    GRACEFUL_SHUTDOWN_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    GRACEFUL_SHUTDOWN_WAIT_LOOP_S_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    RAY_ACTOR_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    ROLLING_UPDATE_PERCENTAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_SURGE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_LOOP_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLICAS_PER_NODE_FIELD_NUMBER: _ClassVar[int]
    num_replicas: int
    max_ongoing_requests: int
    max_queued_requests: int
    user_config_json: str
    graceful_shutdown_timeout_s: float
    graceful_shutdown_wait_loop_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    ray_actor_options_json: str
    rolling_update_percentage: float
    max_surge_percent: float
    blocked_loop_timeout_s: float
    autoscaling_config_json: str
    autoscaling_policy_version: str
    max_replicas_per_node: int
    def __init__(self, num_replicas: _Optional[int] = ..., max_ongoing_requests: _Optional[int] = ..., max_queued_requests: _Optional[int] = ..., user_config_json: _Optional[str] = ..., graceful_shutdown_timeout_s: _Optional[float] = ..., graceful_shutdown_wait_loop_s: _Optional[float] = ..., health_check_period_s: _Optional[float] = ..., health_check_timeout_s: _Optional[float] = ..., ray_actor_options_json: _Optional[str] = ..., rolling_update_percentage: _Optional[float] = ..., max_surge_percent: _Optional[float] = ..., blocked_loop_timeout_s: _Optional[float] = ..., autoscaling_config_json: _Optional[str] = ..., autoscaling_policy_version: _Optional[str] = ..., max_replicas_per_node: _Optional[int] = ...) -> None: ...

class DeploymentSpec(_message.Message):
    __slots__ = ("name", "code", "init_args", "options", "http_adapter", "version", "calls", "autoscaling_policy", "working_dir", "py_modules", "sources")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    INIT_ARGS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_POLICY_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    PY_MODULES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    code: Code
    init_args: bytes
    options: DeploymentOptions
    http_adapter: Code
    version: str
    calls: _containers.RepeatedScalarFieldContainer[str]
    autoscaling_policy: Code
    working_dir: Package
    py_modules: _containers.RepeatedCompositeFieldContainer[Package]
    sources: Package
    def __init__(self, name: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., init_args: _Optional[bytes] = ..., options: _Optional[_Union[DeploymentOptions, _Mapping]] = ..., http_adapter: _Optional[_Union[Code, _Mapping]] = ..., version: _Optional[str] = ..., calls: _Optional[_Iterable[str]] = ..., autoscaling_policy: _Optional[_Union[Code, _Mapping]] = ..., working_dir: _Optional[_Union[Package, _Mapping]] = ..., py_modules: _Optional[_Iterable[_Union[Package, _Mapping]]] = ..., sources: _Optional[_Union[Package, _Mapping]] = ...) -> None: ...

class ApplicationSpec(_message.Message):
    __slots__ = ("name", "route_prefix", "ingress", "deployments", "auto_rollback", "config_json", "sources_archive")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    AUTO_ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCES_ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    route_prefix: str
    ingress: str
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentSpec]
    auto_rollback: bool
    config_json: str
    sources_archive: bytes
    def __init__(self, name: _Optional[str] = ..., route_prefix: _Optional[str] = ..., ingress: _Optional[str] = ..., deployments: _Optional[_Iterable[_Union[DeploymentSpec, _Mapping]]] = ..., auto_rollback: bool = ..., config_json: _Optional[str] = ..., sources_archive: _Optional[bytes] = ...) -> None: ...

class DeployRequest(_message.Message):
    __slots__ = ("applications", "alone")
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    applications: _containers.RepeatedCompositeFieldContainer[ApplicationSpec]
    alone: bool
    def __init__(self, applications: _Optional[_Iterable[_Union[ApplicationSpec, _Mapping]]] = ..., alone: bool = ...) -> None: ...

class DeployResponse(_message.Message):
    __slots__ = ("generations", "missing")
    class GenerationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    generations: _containers.ScalarMap[str, int]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generations: _Optional[_Mapping[str, int]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("application",)
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    application: str
    def __init__(self, application: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: bool = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("application", "generation")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    application: str
    generation: int
    def __init__(self, application: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("replica_id", "state", "pid", "version", "started_at_s")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    state: str
    pid: int
    version: str
    started_at_s: float
    def __init__(self, replica_id: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., started_at_s: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("at_s", "text")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    text: str
    def __init__(self, at_s: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class ReplicaFailure(_message.Message):
    __slots__ = ("at_s", "replica_id", "error")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    replica_id: str
    error: str
    def __init__(self, at_s: _Optional[float] = ..., replica_id: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Journal(_message.Message):
    __slots__ = ("decisions", "failures")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    failures: _containers.RepeatedCompositeFieldContainer[ReplicaFailure]
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[ReplicaFailure, _Mapping]]] = ...) -> None: ...

class DeploymentStatus(_message.Message):
    __slots__ = ("name", "status", "message", "target_num_replicas", "replicas", "status_trigger", "options", "decisions", "last_failures", "policy_error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    STATUS_TRIGGER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURES_FIELD_NUMBER: _ClassVar[int]
    POLICY_ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: str
    message: str
    target_num_replicas: int
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStatus]
    status_trigger: str
    options: DeploymentOptions
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    last_failures: _containers.RepeatedCompositeFieldContainer[ReplicaFailure]
    policy_error: str
    def __init__(self, name: _Optional[str] = ..., status: _Optional[str] = ..., message: _Optional[str] = ..., target_num_replicas: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ReplicaStatus, _Mapping]]] = ..., status_trigger: _Optional[str] = ..., options: _Optional[_Union[DeploymentOptions, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., last_failures: _Optional[_Iterable[_Union[ReplicaFailure, _Mapping]]] = ..., policy_error: _Optional[str] = ...) -> None: ...

class ApplicationStatus(_message.Message):
    __slots__ = ("name", "route_prefix", "status", "message", "deployments", "last_deployed_time_s", "generation", "ingress", "instead_of", "config_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_DEPLOYED_TIME_S_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    INSTEAD_OF_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    route_prefix: str
    status: str
    message: str
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentStatus]
    last_deployed_time_s: float
    generation: int
    ingress: str
    instead_of: int
    config_json: str
    def __init__(self, name: _Optional[str] = ..., route_prefix: _Optional[str] = ..., status: _Optional[str] = ..., message: _Optional[str] = ..., deployments: _Optional[_Iterable[_Union[DeploymentStatus, _Mapping]]] = ..., last_deployed_time_s: _Optional[float] = ..., generation: _Optional[int] = ..., ingress: _Optional[str] = ..., instead_of: _Optional[int] = ..., config_json: _Optional[str] = ...) -> None: ...

class ProxyStatus(_message.Message):
    __slots__ = ("name", "status")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: str
    def __init__(self, name: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...

class ReplicaStacksRequest(_message.Message):
    __slots__ = ("application", "replica")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    application: str
    replica: str
    def __init__(self, application: _Optional[str] = ..., replica: _Optional[str] = ...) -> None: ...

class ReplicaStacks(_message.Message):
    __slots__ = ("replica_id", "pid", "text", "error")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    pid: int
    text: str
    error: str
    def __init__(self, replica_id: _Optional[str] = ..., pid: _Optional[int] = ..., text: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class ReplicaStacksResponse(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStacks]
    def __init__(self, replicas: _Optional[_Iterable[_Union[ReplicaStacks, _Mapping]]] = ...) -> None: ...

class ServeStatus(_message.Message):
    __slots__ = ("applications", "proxies", "http_host", "http_port", "https", "admin_url", "controller_pid", "log", "options_json", "grpc_host", "grpc_port")
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    PROXIES_FIELD_NUMBER: _ClassVar[int]
    HTTP_HOST_FIELD_NUMBER: _ClassVar[int]
    HTTP_PORT_FIELD_NUMBER: _ClassVar[int]
    HTTPS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_URL_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_PID_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    GRPC_HOST_FIELD_NUMBER: _ClassVar[int]
    GRPC_PORT_FIELD_NUMBER: _ClassVar[int]
    applications: _containers.RepeatedCompositeFieldContainer[ApplicationStatus]
    proxies: _containers.RepeatedCompositeFieldContainer[ProxyStatus]
    http_host: str
    http_port: int
    https: bool
    admin_url: str
    controller_pid: int
    log: str
    options_json: str
    grpc_host: str
    grpc_port: int
    def __init__(self, applications: _Optional[_Iterable[_Union[ApplicationStatus, _Mapping]]] = ..., proxies: _Optional[_Iterable[_Union[ProxyStatus, _Mapping]]] = ..., http_host: _Optional[str] = ..., http_port: _Optional[int] = ..., https: bool = ..., admin_url: _Optional[str] = ..., controller_pid: _Optional[int] = ..., log: _Optional[str] = ..., options_json: _Optional[str] = ..., grpc_host: _Optional[str] = ..., grpc_port: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("application", "deployment", "queued", "ongoing", "is_active")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    IS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    application: str
    deployment: str
    queued: int
    ongoing: int
    is_active: bool
    def __init__(self, application: _Optional[str] = ..., deployment: _Optional[str] = ..., queued: _Optional[int] = ..., ongoing: _Optional[int] = ..., is_active: bool = ...) -> None: ...

class TicketRequest(_message.Message):
    __slots__ = ("application", "deployment", "held", "wanted", "returned", "round")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    application: str
    deployment: str
    held: int
    wanted: int
    returned: int
    round: int
    def __init__(self, application: _Optional[str] = ..., deployment: _Optional[str] = ..., held: _Optional[int] = ..., wanted: _Optional[int] = ..., returned: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class TicketUpdate(_message.Message):
    __slots__ = ("application", "deployment", "granted", "answered", "called_back", "keep", "round")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    CALLED_BACK_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    application: str
    deployment: str
    granted: int
    answered: bool
    called_back: int
    keep: int
    round: int
    def __init__(self, application: _Optional[str] = ..., deployment: _Optional[str] = ..., granted: _Optional[int] = ..., answered: bool = ..., called_back: _Optional[int] = ..., keep: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("watcher", "revision", "loads", "tickets")
    WATCHER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    watcher: str
    revision: int
    loads: _containers.RepeatedCompositeFieldContainer[Load]
    tickets: _containers.RepeatedCompositeFieldContainer[TicketRequest]
    def __init__(self, watcher: _Optional[str] = ..., revision: _Optional[int] = ..., loads: _Optional[_Iterable[_Union[Load, _Mapping]]] = ..., tickets: _Optional[_Iterable[_Union[TicketRequest, _Mapping]]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("replica_id", "address")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    address: str
    def __init__(self, replica_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("application", "name", "max_ongoing_requests", "max_queued_requests", "endpoints", "unavailable", "load_interval_s")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    LOAD_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    application: str
    name: str
    max_ongoing_requests: int
    max_queued_requests: int
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    unavailable: str
    load_interval_s: float
    def __init__(self, application: _Optional[str] = ..., name: _Optional[str] = ..., max_ongoing_requests: _Optional[int] = ..., max_queued_requests: _Optional[int] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., unavailable: _Optional[str] = ..., load_interval_s: _Optional[float] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("application", "route_prefix", "ingress")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    application: str
    route_prefix: str
    ingress: str
    def __init__(self, application: _Optional[str] = ..., route_prefix: _Optional[str] = ..., ingress: _Optional[str] = ...) -> None: ...

class DeploymentKey(_message.Message):
    __slots__ = ("application", "name")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    application: str
    name: str
    def __init__(self, application: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class WatchUpdate(_message.Message):
    __slots__ = ("epoch", "revision", "snapshot", "routes_changed", "routes", "deployments", "removed", "tickets")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    ROUTES_CHANGED_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    revision: int
    snapshot: bool
    routes_changed: bool
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    removed: _containers.RepeatedCompositeFieldContainer[DeploymentKey]
    tickets: _containers.RepeatedCompositeFieldContainer[TicketUpdate]
    def __init__(self, epoch: _Optional[int] = ..., revision: _Optional[int] = ..., snapshot: bool = ..., routes_changed: bool = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[DeploymentKey, _Mapping]]] = ..., tickets: _Optional[_Iterable[_Union[TicketUpdate, _Mapping]]] = ...) -> None: ...

class ReplicaReport(_message.Message):
    __slots__ = ("replica_id", "pid", "error")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    pid: int
    error: str
    def __init__(self, replica_id: _Optional[str] = ..., pid: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ReplicaReportResponse(_message.Message):
    __slots__ = ("unwanted",)
    UNWANTED_FIELD_NUMBER: _ClassVar[int]
    unwanted: bool
    def __init__(self, unwanted: bool = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GrpcSettings(_message.Message):
    __slots__ = ("servicer_functions", "sys_path", "max_receive_message_bytes", "max_send_message_bytes")
    SERVICER_FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    MAX_RECEIVE_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_SEND_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    servicer_functions: _containers.RepeatedScalarFieldContainer[str]
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    max_receive_message_bytes: int
    max_send_message_bytes: int
    def __init__(self, servicer_functions: _Optional[_Iterable[str]] = ..., sys_path: _Optional[_Iterable[str]] = ..., max_receive_message_bytes: _Optional[int] = ..., max_send_message_bytes: _Optional[int] = ...) -> None: ...

class ReplicaSpec(_message.Message):
    __slots__ = ("application", "replica_id", "deployment", "is_ingress", "route_prefix", "address", "control_address", "controller_address", "working_dir", "import_folders", "node", "gpus", "sources_dir", "grpc")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    IS_INGRESS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    IMPORT_FOLDERS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_DIR_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    application: str
    replica_id: str
    deployment: DeploymentSpec
    is_ingress: bool
    route_prefix: str
    address: str
    control_address: str
    controller_address: str
    working_dir: str
    import_folders: _containers.RepeatedScalarFieldContainer[str]
    node: str
    gpus: _containers.RepeatedScalarFieldContainer[str]
    sources_dir: str
    grpc: GrpcSettings
    def __init__(self, application: _Optional[str] = ..., replica_id: _Optional[str] = ..., deployment: _Optional[_Union[DeploymentSpec, _Mapping]] = ..., is_ingress: bool = ..., route_prefix: _Optional[str] = ..., address: _Optional[str] = ..., control_address: _Optional[str] = ..., controller_address: _Optional[str] = ..., working_dir: _Optional[str] = ..., import_folders: _Optional[_Iterable[str]] = ..., node: _Optional[str] = ..., gpus: _Optional[_Iterable[str]] = ..., sources_dir: _Optional[str] = ..., grpc: _Optional[_Union[GrpcSettings, _Mapping]] = ...) -> None: ...
