use super::*;

/// A tree with a root, a stranger, and one virtual device.
pub(crate) fn sample(device: u32, handle: u32, irq: u32) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut tokens = Vec::new();
    let begin = |tokens: &mut Vec<u8>, name: &str| {
        tokens.extend(BEGIN_NODE.to_be_bytes());
        tokens.extend(name.as_bytes());
        tokens.push(0);
        tokens.resize(tokens.len().next_multiple_of(4), 0);
    };
    let mut property = |tokens: &mut Vec<u8>, name: &str, value: &[u8]| {
        tokens.extend(PROPERTY.to_be_bytes());
        tokens.extend((value.len() as u32).to_be_bytes());
        tokens.extend((strings.len() as u32).to_be_bytes());
        strings.extend(name.as_bytes());
        strings.push(0);
        tokens.extend(value);
        tokens.resize(tokens.len().next_multiple_of(4), 0);
    };
    begin(&mut tokens, "");
    begin(&mut tokens, "clock@1");
    property(&mut tokens, "compatible", b"some-clock\0");
    tokens.extend(END_NODE.to_be_bytes());
    begin(&mut tokens, "pipe@5");
    property(&mut tokens, "compatible", b"other\0virt-dev\0");
    property(&mut tokens, "virt_dev_id", &device.to_be_bytes());
    property(&mut tokens, "reg", &handle.to_be_bytes());
    property(&mut tokens, "interrupts", &irq.to_be_bytes());
    tokens.extend(END_NODE.to_be_bytes());
    tokens.extend(END_NODE.to_be_bytes());
    tokens.extend(9u32.to_be_bytes());
    let (structure, names) = (40, 40 + tokens.len());
    let total = names + strings.len();
    let header = [MAGIC, total as u32, structure, names as u32, 40, 17, 16, 0, 0, 0];
    let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    blob.extend(tokens);
    blob.extend(strings);
    blob
}

#[test]
fn only_the_virtual_device_is_found() {
    let nodes = nodes(&sample(0x3456, 5, 17), "virt-dev", "virt_dev_id").unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].name, "pipe@5");
    assert_eq!((nodes[0].device, nodes[0].handle, nodes[0].interrupt), (Some(0x3456), Some(5), Some(17)));
}

#[test]
fn no_cut_and_no_flipped_byte_is_worse_than_a_missing_node() {
    let blob = sample(1, 2, 3);
    for end in 0..blob.len() {
        let _ = nodes(&blob[..end], "virt-dev", "virt_dev_id");
    }
    for at in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[at] ^= 0xff;
        if let Some(found) = nodes(&damaged, "virt-dev", "virt_dev_id") {
            assert!(found.len() <= MAX_NODES);
        }
    }
    assert_eq!(nodes(b"not a tree at all", "virt-dev", "id"), None);
}
