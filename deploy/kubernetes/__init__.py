"""Manifests for Kubernetes, and what makes some of them."""
