//! The pipe: the example of Arnd Bergmann's 2007 mail, on two transports (facts 12).
//!
//! **On the lguest page** it is a descriptor of type [`crate::descriptor::kind::PIPE`] with one private page, whose address
//! is the key. The Guest binds one list there: the Host fills it with the next bytes for the Guest and interrupts. What the
//! Guest sends there, the Host takes; `used_len` says how much.
//!
//! **On a device tree** the Launcher adds a flattened tree (Devicetree Specification 0.4, chapter 5) to the boot
//! parameters' `setup_data` with type 2. A node is ours if `compatible` holds [`COMPATIBLE`]; its properties are
//! one 32-bit big-endian cell each: [`ID_PROPERTY`] the device number, `reg` the handle, `interrupts` the irq, numbered and
//! delivered like those of the lguest bus (17..=31, above the page's devices). Bytes move by the hypercalls READ and
//! WRITE, to and from any range below the page limit; READ answers 0 when there is nothing yet, and the
//! irq is raised when that changes. A range outside memory answers -14, an unknown handle -19.
//!
//! What is at the Host's end is the Launcher's business; the one both transports must offer is a fixed text, so that
//! two transports can be compared.

/// Vendor of the mail's ids, which never got a number there: the Linux Foundation's in the USB list.
pub const VENDOR_LINUX: u16 = 0x1d6b;
/// Vendor of what stands in a descriptor page; the device number is the descriptor's type.
pub const VENDOR_LGUEST: u16 = 0x4c47;
/// The pipe's device number in the mail.
pub const DEVICE: u16 = 0x3456;
/// In `compatible` of a node that is a virtual device.
pub const COMPATIBLE: &str = "virt-dev";
/// The property with the device number.
pub const ID_PROPERTY: &str = "virt_dev_id";
/// First irq for devices of the tree: above those of the sixteen descriptors.
pub const FIRST_IRQ: u8 = 17;
/// Bytes of the list bound on the lguest page, and the most one transfer moves.
pub const BUFFER_SIZE: u16 = 4096;
/// What the Host's end says when the Launcher connects nothing else.
pub const GREETING: &str = "The driver need not know the bus.\n";
