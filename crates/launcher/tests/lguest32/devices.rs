//! The devices: on the page of descriptors before 4.0, on PCI from then on.

use crate::kernel::*;
