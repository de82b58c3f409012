//! Devices as pure machines. (skeleton)
