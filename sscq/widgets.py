"The module of version 0.1.0 that became explorer, explorers and playground; by hand, as it holds no code of its own"
from typing import TYPE_CHECKING

from .moved import moved_from as _moved_from

if not TYPE_CHECKING: __getattr__ = _moved_from("widgets")
