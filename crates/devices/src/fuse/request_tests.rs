use super::*;

fn message(opcode: u32, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = Vec::new();
    bytes.extend((HEADER as u32 + content.len() as u32).to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(77u64.to_le_bytes());
    bytes.extend(5u64.to_le_bytes());
    bytes.extend([1000u32, 100, 4242, 0].iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(content);
    bytes
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn a_header_says_who_asks_about_what() {
    let bytes = message(1, &[b"etc\0"]);
    let (header, opcode) = header(&bytes).unwrap();
    assert_eq!((header.unique, header.node, header.uid, header.gid), (77, NodeId(5), 1000, 100));
    assert_eq!(body(opcode, &bytes), Ok(Request::Lookup { name: FileName(b"etc") }));
    assert_eq!(super::header(&bytes[..HEADER - 1]), None);
}

#[test]
fn a_name_that_leads_elsewhere_is_none() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"../x", b"/etc/passwd"] {
        assert_eq!(FileName::new(name), Err(Errno::INVAL), "{name:?}");
        let bytes = message(1, &[name, b"\0"]);
        assert_eq!(body(1, &bytes), Err(Errno::INVAL), "{name:?}");
    }
    assert_eq!(FileName::new(&[b'a'; 256]), Err(Errno::NAMETOOLONG));
    assert!(FileName::new(&[b'a'; 255]).is_ok());
    assert!(FileName::new(b"...").is_ok());
}

#[test]
fn a_rename_takes_two_names_and_both_are_checked() {
    let to = 9u64.to_le_bytes();
    let good = message(45, &[&to, &words(&[1, 0]), b"old\0new\0"]);
    let wanted =
        Request::Rename { name: FileName(b"old"), to: NodeId(9), new_name: FileName(b"new"), flags: 1 };
    assert_eq!(body(45, &good), Ok(wanted));
    assert_eq!(body(45, &message(45, &[&to, &words(&[1, 0]), b"old\0..\0"])), Err(Errno::INVAL));
    assert_eq!(body(12, &message(12, &[&to, b"old\0new"])), Err(Errno::INVAL), "no NUL at the end");
}

#[test]
fn data_shorter_than_it_claims_is_refused() {
    let head = [&3u64.to_le_bytes()[..], &4096u64.to_le_bytes()].concat();
    let more = [0; 20];
    let whole = message(16, &[&head, &words(&[4]), &more, b"data"]);
    let Ok(Request::Write { at, data, .. }) = body(16, &whole) else { panic!("no write") };
    assert_eq!((at, data), (Span { handle: HandleId(3), offset: 4096, size: 4 }, &b"data"[..]));
    assert_eq!(body(16, &message(16, &[&head, &words(&[5]), &more, b"data"])), Err(Errno::INVAL));
    assert_eq!(body(16, &message(16, &[&head, &words(&[u32::MAX]), &more, b"data"])), Err(Errno::INVAL));
}

#[test]
fn only_the_changes_that_are_marked_count() {
    let mut content = words(&[1 << 0 | 1 << 3 | 1 << 5 | 1 << 8, 0]);
    content.extend([11u64, 22, 33, 44, 55, 66].iter().flat_map(|value| value.to_le_bytes()));
    content.extend(words(&[1, 2, 3, 0o100_644, 0, 8, 9, 0]));
    let Ok(Request::SetAttributes(changes)) = body(4, &message(4, &[&content])) else { panic!("no change") };
    let wanted =
        Changes { mode: Some(0o644), size: Some(22), modified: Some(NewTime::Now), ..Changes::default() };
    assert_eq!(changes, wanted);
}

#[test]
fn a_list_of_what_to_forget_is_as_long_as_it_says() {
    let pair = [7u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
    let bytes = message(42, &[&words(&[1, 0]), &pair]);
    let Ok(Request::BatchForget { list }) = body(42, &bytes) else { panic!("no list") };
    assert_eq!(forgets(list).collect::<Vec<_>>(), [(NodeId(7), 2)]);
    for count in [2, u32::MAX] {
        assert_eq!(body(42, &message(42, &[&words(&[count, 0]), &pair])), Err(Errno::INVAL));
    }
}

/// The same small generator as elsewhere: xorshift64 (Marsaglia 2003).
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn any_bytes_are_a_request_or_an_error() {
    let mut state = 0x5eed;
    let mut read = 0;
    for _ in 0..20_000 {
        let length = chance(&mut state) as usize % 120;
        let content: Vec<u8> = (0..length).map(|_| (chance(&mut state) as u8) & 0x63).collect();
        let opcode = chance(&mut state) as u32 % 60;
        read += u32::from(body(opcode, &message(opcode, &[&content])).is_ok());
    }
    assert!(read > 100, "some of them were requests: {read}");
}
