"""O2N over HTTP on Ray Serve: `serve run serve.app:build`, `serve deploy serve/config.yaml`, `o2n serve`."""

# First in every replica: whatever a replica unpickles may import torchvision.
import o2n  # noqa: F401

# What Serve's own processes need in their environment, on every node (ray/serve/_private/constants.py): our middleware
# in its proxies, and a proxy that died missed after three looks half a second apart, not ten seconds.
CLUSTER_ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy.middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
}
