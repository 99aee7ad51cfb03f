//! Wharf: an image registry for the inside of a cluster.
