//! What memory promises.

use super::*;

#[test]
fn what_is_written_is_read_back_through_both_mappings() {
    let memory = Memory::new(1 << 20).unwrap();
    memory.write(GuestAddress(0x1234), b"lguest").unwrap();
    let mut bytes = [0; 6];
    memory.read(GuestAddress(0x1234), &mut bytes).unwrap();
    assert_eq!(&bytes, b"lguest");
    let mut bytes = [0; 6];
    assert!(memory.ram().unwrap().read(0x1234, &mut bytes));
    assert_eq!(&bytes, b"lguest");
}

#[test]
fn a_read_past_the_end_is_refused() {
    let memory = Memory::new(0x2000).unwrap();
    for (address, length) in [(0x1fff, 2), (0x2000, 1), (u64::MAX, 1), (0, 0x2001)] {
        let mut bytes = vec![0; length];
        assert!(memory.read(GuestAddress(address), &mut bytes).is_err(), "{address:#x} + {length}");
        assert!(memory.write(GuestAddress(address), &bytes).is_err(), "{address:#x} + {length}");
    }
}

#[test]
fn memory_over_three_gibibytes_goes_on_above_the_hole() {
    let memory = Memory::new(HOLE_START + PAGE_SIZE).unwrap();
    assert_eq!(memory.low_end(), GuestAddress(HOLE_START));
    memory.write(GuestAddress(HOLE_END), b"high").unwrap();
    assert!(memory.write(GuestAddress(HOLE_START), b"hole").is_err());
    assert!(memory.write(GuestAddress(HOLE_START - 2), b"hole").is_err());
    assert!(memory.write(GuestAddress(HOLE_END + PAGE_SIZE), b"end").is_err());
}

#[test]
fn no_memory_and_half_a_page_are_refused() {
    for bytes in [0, 1, PAGE_SIZE + 1, !(PAGE_SIZE - 1)] {
        assert!(matches!(Memory::new(bytes), Err(MemoryError::Size(_))), "{bytes:#x}");
    }
}

#[test]
fn device_pages_lie_right_behind_low_memory() {
    let memory = Memory::with_device_pages(0x10000, 3).unwrap();
    assert_eq!(memory.low_end(), GuestAddress(0x10000));
    memory.write(GuestAddress(0x12ff0), &[1; 16]).unwrap();
    assert!(memory.write(GuestAddress(0x12ff1), &[1; 16]).is_err());
    let large = Memory::with_device_pages(HOLE_START + PAGE_SIZE, 2).unwrap();
    large.write(GuestAddress(HOLE_START + 0x1fff), &[7]).unwrap();
    large.write(GuestAddress(HOLE_END), &[9]).unwrap();
    assert!(large.write(GuestAddress(HOLE_START + 0x2000), &[7]).is_err());
    let mut byte = [0];
    large.read(GuestAddress(HOLE_START + 0x1fff), &mut byte).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_grafted_page_is_shared_and_named_so_at_whatever_address() {
    let page = shared_page().unwrap();
    let mut first = Memory::with_device_pages(0x4000, 2).unwrap();
    let mut second = Memory::with_device_pages(0x8000, 4).unwrap();
    first.graft(GuestAddress(0x5000), page.try_clone().unwrap()).unwrap();
    second.graft(GuestAddress(0xa000), page).unwrap();
    first.write(GuestAddress(0x5010), b"shared").unwrap();
    let mut bytes = [0; 6];
    second.read(GuestAddress(0xa010), &mut bytes).unwrap();
    assert_eq!(&bytes, b"shared");
    let mut bytes = [0; 6];
    assert!(second.ram().unwrap().read(0xa010, &mut bytes));
    assert_eq!(&bytes, b"shared");
    assert_eq!(first.place(GuestAddress(0x5004)), Some(Place::Shared { graft: 0, offset: 4 }));
    assert_eq!(second.place(GuestAddress(0xa004)), Some(Place::Shared { graft: 0, offset: 4 }));
    assert_eq!(first.place(GuestAddress(0x4004)), Some(Place::Private(0x4004)));
    assert_eq!(first.place(GuestAddress(0x6000)), None);
}

#[test]
fn a_graft_that_is_no_page_of_ours_is_refused() {
    let mut memory = Memory::with_device_pages(0x4000, 1).unwrap();
    for address in [0x5000, 0x4001, u64::MAX] {
        assert!(memory.graft(GuestAddress(address), shared_page().unwrap()).is_err(), "{address:#x}");
    }
    let empty = super::memory_file().unwrap();
    assert!(memory.graft(GuestAddress(0x4000), empty).is_err());
}

#[test]
fn a_file_that_could_still_shrink_is_not_adopted() {
    let file = super::memory_file().unwrap();
    file.set_len(0x4000).unwrap();
    assert!(Memory::adopt(file.try_clone().unwrap(), 0x4000, 0).is_err());
    super::seal(&file).unwrap();
    assert!(Memory::adopt(file.try_clone().unwrap(), 0x4000, 1).is_err(), "shorter than it says");
    assert!(Memory::adopt(file, 0x4000, 0).is_ok());
}

#[test]
fn a_copy_between_machines_checks_both_ends() {
    let from = Memory::new(0x2000).unwrap();
    let to = Memory::new(0x1000).unwrap();
    from.write(GuestAddress(0x1ffc), b"ping").unwrap();
    from.copy_to(GuestAddress(0x1ffc), &to, GuestAddress(0x10), 4).unwrap();
    assert_eq!(to.load_word(GuestAddress(0x10)).unwrap(), u32::from_le_bytes(*b"ping"));
    assert!(from.copy_to(GuestAddress(0x1ffd), &to, GuestAddress(0x10), 4).is_err());
    assert!(from.copy_to(GuestAddress(0), &to, GuestAddress(0xffd), 4).is_err());
}

#[test]
fn shared_words_are_stored_and_loaded_at_any_address() {
    let memory = Memory::new(0x1000).unwrap();
    for address in [0, 1, 2, 3, 0xffc] {
        memory.store_word(GuestAddress(address), 0x1234_5678).unwrap();
        assert_eq!(memory.load_word(GuestAddress(address)).unwrap(), 0x1234_5678);
    }
    assert!(
        memory.store_word(GuestAddress(0xffd), 1).is_err() && memory.load_word(GuestAddress(0xffd)).is_err()
    );
}

#[test]
fn a_part_of_a_file_lands_where_it_should() {
    use std::io::Write;
    let mut file = memory_file().unwrap();
    file.write_all(b"hello lguest").unwrap();
    let memory = Memory::new(0x2000).unwrap();
    memory.write_from(GuestAddress(0x1001), &file, 6..12).unwrap();
    let mut bytes = [0; 8];
    memory.read(GuestAddress(0x1000), &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0lguest\0");
    let short = memory.write_from(GuestAddress(0), &file, 6..13);
    assert!(matches!(short, Err(MemoryError::File(_))));
    let outside = memory.write_from(GuestAddress(0x1fff), &file, 0..2);
    assert!(matches!(outside, Err(MemoryError::OutOfRange { .. })));
}

#[test]
fn two_processors_that_take_turns_at_a_list_see_each_others_bytes_whole() {
    const ROUNDS: u32 = 5_000;
    const BYTES: GuestAddress = GuestAddress(0x1000);
    let wait = |memory: &Memory, word: GuestAddress, value: u32| {
        while memory.load_word(word).unwrap() != value {
            std::thread::yield_now();
        }
    };
    let memory = Memory::new(0x3000).unwrap();
    // The second list lies as no Guest of ours puts it, so that its word is stored in the other way.
    for word in [GuestAddress(0x800), GuestAddress(0x801)] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    wait(&memory, word, 0);
                    memory.write(BYTES, &[round as u8; 1514]).unwrap();
                    memory.store_word(word, round).unwrap();
                }
            });
            for round in 1..=ROUNDS {
                wait(&memory, word, round);
                let mut bytes = [0; 1514];
                memory.read(BYTES, &mut bytes).unwrap();
                assert_eq!(bytes, [round as u8; 1514]);
                memory.store_word(word, 0).unwrap();
            }
        });
    }
}
