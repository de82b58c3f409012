//! Host (skeleton)
