//! Digests, names, manifests, and where a registry keeps them.
