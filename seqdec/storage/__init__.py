"""The only writer of run, policy and data folders: what it writes appears whole or not at all.

    files     one file at a time: JSON, tensors, texts, the lines of a log
    folders   many files at once:  .tmp-NAME-<id>  write -> fsync -> manifest.json -> rename  NAME

A process killed at any instant leaves the old, the new, or leftovers that `recover` clears away. Nothing here knows
what is in the files: a policy, a checkpoint and a data set are all the same to it.
"""

from seqdec.storage.files import (
    LARGEST_JSON,
    LEFTOVER,
    MANIFEST,
    advice,
    append_line,
    check_plain,
    difference,
    plain_text,
    read_json,
    read_lines,
    read_tensors,
    stand_in,
    tensor_shapes,
    truncate_lines,
    unique,
    write_json,
    write_tensors,
    write_text,
)
from seqdec.storage.folders import (
    FORMAT,
    await_lock,
    check_named,
    lock_folder,
    path_inside,
    publish,
    published,
    recover,
    retire,
    verify,
    write_manifest,
)

__all__ = [
    "FORMAT", "LARGEST_JSON", "LEFTOVER", "MANIFEST", "advice", "append_line", "await_lock", "check_named",
    "check_plain", "difference", "lock_folder", "path_inside", "plain_text", "publish", "published", "read_json",
    "read_lines", "read_tensors", "recover", "retire", "stand_in", "tensor_shapes", "truncate_lines", "unique",
    "verify", "write_json", "write_manifest", "write_tensors", "write_text",
]  # fmt: skip
