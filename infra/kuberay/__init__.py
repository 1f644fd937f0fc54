"""O2N on Kubernetes with KubeRay: manifests, and what writes the generated part of them."""
