"Shapes in signatures are checked, here and only here."
import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("sscq", "typecheck.check")
