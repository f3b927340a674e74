"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """
    Write a file; a crash or a full disk on the way leaves the old one, never half a new one.

    :raises OSError: it cannot be written; names the file
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(data)
            file.flush()
            # Else a power cut may keep the new name and lose what is in it
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f'cannot write it: {error.strerror}', str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
