//! Blobs: how their bytes are selected and framed.

pub mod range;
