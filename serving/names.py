"""What names and route prefixes may look like."""

from __future__ import annotations


def check_application_name(name: object) -> None:
    """Raises ValueError where no application can have that name."""
    if not isinstance(name, str) or not name or set(name) & set("#/\0\n"):
        raise ValueError(f"name must be a non-empty string without '#' and '/': {name!r}")


def check_deployment_name(name: object) -> None:
    """Raises ValueError where no deployment can have that name."""
    if not isinstance(name, str) or not name or set(name) & set("#/\0\n"):
        raise ValueError(f"a deployment's name must be a string without '#' and '/': {name!r}")


def check_import_path(path: str) -> None:
    """Raises ValueError where it is not of the form module:app."""
    module, colon, attribute = path.partition(":")
    if not colon or not module or not attribute or module.endswith(".py"):
        meant = module.removesuffix(".py").removeprefix("./").replace("/", ".")
        hint = f"; did you mean '{meant}:{attribute or 'app'}'?" if meant else ""
        raise ValueError(f"{path!r} is not of the form module:app{hint}")


def servicer_function(path: str) -> tuple[str, str]:
    """The module and the name of a generated function. Raises ValueError where it is no path."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(
            f"{path!r} is no import path: give one as "
            "'helloworld_pb2_grpc.add_GreeterServicer_to_server'"
        )
    return module, name


def check_route_prefix(prefix: object) -> None:
    """Raises TypeError or ValueError where no application can be served there."""
    if not isinstance(prefix, str):
        raise TypeError(f"route_prefix must be a string or None: {prefix!r}")
    problem = None
    if not prefix.startswith("/"):
        problem = "must begin with '/'"
    elif prefix != "/" and prefix.endswith("/"):
        problem = "must not end with '/'"
    elif "{" in prefix or "}" in prefix:
        problem = "may not have parameters in braces; declare those in the application's routes"
    if problem:
        raise ValueError(f"route_prefix {prefix!r} {problem}")
