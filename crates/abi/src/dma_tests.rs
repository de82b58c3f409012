use super::*;

#[test]
fn the_32_bit_list_is_these_hundred_bytes() {
    let mut bytes = [0; 100];
    bytes[..4].copy_from_slice(&7u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&0x0400_1000u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&0x2000u32.to_le_bytes());
    bytes[68..70].copy_from_slice(&4096u16.to_le_bytes());
    bytes[70..72].copy_from_slice(&3u16.to_le_bytes());
    let dma = Dma32::read_from_bytes(&bytes).unwrap();
    assert_eq!(dma.as_bytes(), bytes);
    assert_eq!(dma.used_len, 7);
    let expected = [Section { address: 0x0400_1000, length: 4096 }, Section { address: 0x2000, length: 3 }];
    assert_eq!(dma.sections().as_slice(), expected);
}

#[test]
fn zero_to_sixteen_sections_survive_the_64_bit_form() {
    for count in 0..=MAX_SECTIONS {
        let mut sections = Sections::new();
        for index in 0..count {
            let address = (index as u64 + 1) << 33;
            sections.push(Section { address, length: index as u16 + 1 }).unwrap();
        }
        let bytes = Dma64::new(&sections);
        let again = Dma64::read_from_bytes(bytes.as_bytes()).unwrap();
        assert_eq!(again.sections(), sections);
        assert_eq!(again.used_len, 0);
    }
}

#[test]
fn a_seventeenth_section_and_an_empty_one_are_refused() {
    let mut sections = Sections::new();
    assert_eq!(sections.push(Section { address: 5, length: 0 }), Err(PushError::Empty));
    for _ in 0..MAX_SECTIONS {
        sections.push(Section { address: 0, length: 1 }).unwrap();
    }
    assert_eq!(sections.push(Section { address: 0, length: 1 }), Err(PushError::Full));
    assert_eq!(sections.total(), MAX_SECTIONS);
}

#[test]
fn a_length_of_zero_ends_the_list_whatever_follows() {
    let mut dma = Dma64 { len: [1; MAX_SECTIONS], ..Dma64::default() };
    dma.len[2] = 0;
    assert_eq!(dma.sections().as_slice().len(), 2);
    dma.len[0] = 0;
    assert_eq!(dma.sections(), Sections::new());
}

#[test]
fn the_page_rule_is_about_pages_and_the_limit() {
    let limit = 0x4003 * PAGE_SIZE;
    let check = |address, length| Section { address, length }.check_page_rule(limit);
    assert_eq!(check(0, 4096), Ok(()));
    assert_eq!(check(1, 4095), Ok(()));
    assert_eq!(check(2, 4095), Err(SectionFault::CrossesPage));
    assert_eq!(check(0, 4097), Err(SectionFault::CrossesPage));
    assert_eq!(check(limit - 4096, 4096), Ok(()), "D4: a range may end at the limit");
    assert_eq!(check(limit - 1, 2), Err(SectionFault::OutsideMemory));
    assert_eq!(check(u64::MAX, 2), Err(SectionFault::OutsideMemory));
}

#[test]
fn pages_cut_a_stretch_and_nothing_is_lost() {
    for (address, length) in
        [(0x1000, 1), (0x1fff, 2), (0x1001, 65536 - 4096), (0x1801, 1514), (0x1000, 65536)]
    {
        let mut sections = Sections::new();
        assert_eq!(sections.push_pages(address, length), length);
        let mut next = address;
        for section in sections.as_slice() {
            assert_eq!(section.address, next);
            assert_eq!(section.check_page_rule(u64::MAX), Ok(()));
            next += u64::from(section.length);
        }
        assert_eq!(next, address + length as u64);
    }
    let mut sections = Sections::new();
    assert_eq!(sections.push_pages(0x1001, 65536), 65535, "seventeen pieces are cut to sixteen");
}
