"""O2N over HTTP on Ray Serve: `serve run serve.app:build`, `serve deploy serve/config.yaml`, `o2n serve`."""

# First in every replica: whatever a replica unpickles may import torchvision.
import o2n  # noqa: F401
