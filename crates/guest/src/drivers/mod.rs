//! The drivers. Each knows ids, the layout its device shares, and [`crate::model::Carrier`]; none knows a bus.

pub mod console;
pub mod block;
pub mod net;
pub mod pipe;

#[cfg(test)]
mod independence {
    /// The mail's claim, as a test: the text of a driver does not name what carries it.
    #[test]
    fn no_driver_names_a_transport() {
        let sources = [
            include_str!("console.rs"),
            include_str!("block.rs"),
            include_str!("net.rs"),
            include_str!("pipe.rs"),
        ];
        for source in sources {
            for word in ["crate::transport", "Hypercall", "Descriptor", "Dma64", "flat_tree"] {
                assert!(!source.contains(word), "a driver names {word}");
            }
        }
    }
}
