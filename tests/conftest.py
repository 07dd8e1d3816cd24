"""Tiny random backbones of every family that is tested, and small data sets made on the spot."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import contextlib
import ipaddress
import signal
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from families import FAMILIES
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec

# `nohup make test &` ignores Ctrl-C, and the processes that tests start and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def is_local(host: object) -> bool:
    """Whether an internet address is this machine's own."""
    if host in (None, "", b"", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def loopback() -> None:
    """Switch the loopback interface on where it is off, as under `unshare -n`: processes of one machine talk by it."""
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    get_flags, set_flags, is_up = 0x8913, 0x8914, 1  # of <linux/sockios.h> and <linux/if.h>
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, contextlib.suppress(OSError):
        request = fcntl.ioctl(control, get_flags, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", request)[1]
        if not flags & is_up:
            fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | is_up))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection that leaves this machine, and fail the test that tried one."""
    tried: list[object] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(place: object) -> None:
        tried.append(place)
        raise OSError(f"the tests reach for no network: {place!r}")

    def leaves(this: socket.socket, address: tuple[object, ...]) -> bool:
        return this.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0])

    def guarded_connect(self: socket.socket, address: tuple[object, ...]) -> None:
        if leaves(self, address):
            refuse(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: tuple[object, ...]) -> int:
        if leaves(self, address):
            refuse(address)
        return connect_ex(self, address)

    def guarded_look_up(host: object, *arguments: object, **options: object) -> object:
        if not is_local(host):
            refuse(host)
        return look_up(host, *arguments, **options)  # pyright: ignore

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    assert not tried, f"reached for the network: {tried}"


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint of a family in Hugging Face format, with its vocabulary and head."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            torch.manual_seed(0)
            config = AutoConfig.for_model(family, bos_token_id=0, eos_token_id=0, pad_token_id=0, **FAMILIES[family])
            AutoModelForCausalLM.from_config(config).save_pretrained(root / family)
        return root / family

    return folder


@pytest.fixture
def backbone(family_folder: Callable[[str], Path]) -> Backbone:
    """A tiny pretrained llama."""
    return load_backbone(str(family_folder("llama")))


def box_spec() -> EnvironmentSpec:
    """Three observations; two bounded actions."""
    return EnvironmentSpec(
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
    )


def box_episodes(num_episodes: int = 12, seed: int = 0, lengths: tuple[int, int] = (3, 30)) -> list[Episode]:
    """Random episodes of `box_spec`, many of whose actions are on a bound."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        length = int(rng.integers(*lengths))
        observations = rng.normal(size=(length + 1, 3)).astype(np.float32)
        actions = np.clip(rng.normal(size=(length, 2)), -1, 1).astype(np.float32)
        rewards = (actions[:, 0] + observations[:-1, 0]).astype(np.float32)
        steps = {"observation": observations[:-1], "action": actions, "reward": rewards}
        episodes.append(Episode(steps, final=observations[-1], terminated=True, truncated=False))
    return episodes


def counting_episode(length: int, first: int) -> Episode:
    """An episode whose values tell where they come from."""
    numbers = np.arange(first, first + length, dtype=np.float32)
    steps = {"observation": np.stack([numbers] * 3, 1), "action": np.zeros((length, 2), np.float32)}
    steps["reward"] = np.ones(length, np.float32)
    return Episode(steps, final=np.zeros(3, np.float32), terminated=True, truncated=False)


def discrete_spec() -> EnvironmentSpec:
    """Five states; three actions that start at 1."""
    return EnvironmentSpec(
        observation_space=gymnasium.spaces.Discrete(5), action_space=gymnasium.spaces.Discrete(3, start=1)
    )


def discrete_episodes(num_episodes: int = 12, seed: int = 0) -> list[Episode]:
    """Random episodes of `discrete_spec`."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        length = int(rng.integers(3, 30))
        observations = rng.integers(0, 5, size=length + 1)
        actions = rng.integers(1, 4, size=length)
        steps = {"observation": observations[:-1], "action": actions, "reward": actions.astype(np.float32)}
        episodes.append(Episode(steps, final=observations[-1], terminated=False, truncated=True))
    return episodes


WORDS = ["go", "stop", "open the red door", "", "put the ball next to the key"]


def nested_spec(missing: tuple[str, ...] = ()) -> EnvironmentSpec:
    """An image, a mission, a direction and a vector; an arm and a gripper."""
    spaces = gymnasium.spaces
    return EnvironmentSpec(
        observation_space=spaces.Dict(
            OrderedDict(
                image=spaces.Box(0, 255, (5, 4, 3), np.uint8),
                mission=spaces.Text(40),
                direction=spaces.Discrete(4, start=1),
                joints=spaces.Box(-np.inf, np.inf, (2, 2)),
            )
        ),
        action_space=spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3], start=[0, -1]))),
        missing=missing,
    )


def nested_episodes(
    num_episodes: int = 8, seed: int = 0, *, missing: bool = False, steady: bool = True
) -> list[Episode]:
    """Random episodes of `nested_spec`; the mission changes within an episode unless `steady`."""
    rng = np.random.default_rng(seed)
    episodes = []
    for index in range(num_episodes):
        length = int(rng.integers(3, 30))
        words = np.full(length + 1, index % len(WORDS)) if steady else rng.integers(0, len(WORDS), length + 1)
        seen = {
            "observation.image": rng.integers(0, 12, size=(length + 1, 5, 4, 3)).astype(np.uint8),
            "observation.mission": np.array([WORDS[word] for word in words], dtype=object),
            "observation.direction": rng.integers(1, 5, size=length + 1),
            "observation.joints": rng.normal(size=(length + 1, 2, 2)).astype(np.float32),
        }
        if missing:
            seen["missing.observation.joints"] = rng.random((length + 1, 2, 2)) < 0.3
            seen["missing.observation.image"] = rng.random(length + 1) < 0.3
            seen["missing.observation.direction"] = rng.random(length + 1) < 0.3
        steps = {name: values[:-1] for name, values in seen.items()}
        steps["action.0"] = np.clip(rng.normal(size=(length, 2)), -1, 1).astype(np.float32)
        steps["action.1"] = np.stack([rng.integers(0, 2, length), rng.integers(-1, 2, length)], 1)
        steps["reward"] = rng.normal(size=length).astype(np.float32)
        finals = {name: values[-1] for name, values in seen.items()}
        episodes.append(Episode(steps, finals, terminated=True, truncated=False, text=WORDS[(index + 2) % len(WORDS)]))
    return episodes


def make_windows(
    preset: str = "multi_game",
    *,
    context_length: int = 6,
    discrete: bool = False,
    head: str = "gaussian",
    layout: Layout | None = None,
    discount: float = 1.0,
    delayed_reward: bool = False,
    **options: object,
) -> tuple[Windows, EnvironmentSpec]:
    """Windows of the small data sets."""
    spec = discrete_spec() if discrete else box_spec()
    episodes = discrete_episodes() if discrete else box_episodes()
    dataset = from_episodes(episodes, spec)
    if layout is None:
        layout = layout_from_spaces(
            preset, spec.observation_space, spec.action_space, context_length=context_length, head=head,  # pyright: ignore
        )  # fmt: skip
    layout = replace(layout, discount=discount, delayed_reward=delayed_reward)
    return Windows(dataset, layout, **options), spec  # pyright: ignore[reportArgumentType]


def make_model(backbone: Backbone, preset: str = "multi_game", **options: object) -> tuple[SequenceModel, Windows]:
    """A model with random read-outs that are far from indifferent, and its windows."""
    windows, spec = make_windows(preset, **options)  # pyright: ignore[reportArgumentType]
    model = build_model(windows, backbone)
    torch.manual_seed(1)
    for name in windows.layout.predicted:
        head = model.codecs[name].head
        torch.nn.init.normal_(head.weight, std=0.3)  # pyright: ignore
    return model.eval(), windows


def prompted_model(
    backbone: Backbone, prompt: list[str], preset: str = "multi_game", prompt_dropout: float = 0.3, **options
) -> tuple[SequenceModel, Windows]:
    """A model of vectors with facts in its prompt, as `make_model`, and its windows."""
    spec = box_spec()
    layout = layout_from_spaces(
        preset, spec.observation_space, spec.action_space, context_length=6, prompt=prompt, demo_length=4,
        text_tokens=6, prompt_dropout=prompt_dropout, **options,
    )  # fmt: skip
    windows = Windows(from_episodes(box_episodes(), spec), layout, text="go")
    model = build_model(windows, backbone)
    torch.manual_seed(1)
    for name in layout.predicted:
        torch.nn.init.normal_(model.codecs[name].head.weight, std=0.05)  # pyright: ignore
    return model.eval(), windows
