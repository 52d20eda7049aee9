"""The bytes of a file that a setting names, and its text."""

import gzip
import zlib
from pathlib import Path

from bench.errors import UserError
from bench.records.files import expanded

GZIP_MAGIC = b"\x1f\x8b"


def read_content(path: str | Path, key: str = "task.path") -> bytes:
    """The bytes of a file, decompressed if it is a gz file.

    Args:
        path: The file, as the user typed it.
        key: The setting that names it, for messages.

    Raises:
        UserError: If there is no such file, it is no regular one, unreadable, or broken gz.
    """
    file = expanded(str(path))  # yaml reads task.path=2024 as a number
    if file.is_dir():
        raise UserError(f"{key}={path} is a directory", "Name the file inside it.")
    try:
        if file.exists() and not file.is_file():  # reading a pipe or a device may never end
            raise UserError(f"{key}={path} is not a regular file", "Write its content to a file first.")
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw
    except FileNotFoundError as error:
        where = f"{Path.cwd()}" if not file.is_absolute() else "the whole path"
        raise UserError(f"{key}={path}: no such file", f"Check the name; looked in {where}.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a broken gz file: {error}", "Compress it again or unpack it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error


def decoded(content: bytes, name: str) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        UserError: If it is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: not UTF-8 text: {error.reason} at byte {error.start}", "Save the file as UTF-8."
        ) from error
