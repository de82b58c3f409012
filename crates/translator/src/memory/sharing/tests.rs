use super::*;
use crate::memory::ram::PAGE_SIZE;

/// A room with these vCPUs in it, none of them running.
fn with(vcpus: &[usize]) -> Sharing {
    let sharing = Sharing::new(1 << 14);
    assert!(vcpus.iter().all(|&vcpu| sharing.join(vcpu, Kicker::default())));
    sharing
}

/// What is in a vCPU's box; it tells that it did it.
fn mail(sharing: &Sharing, me: usize) -> Option<Mail> {
    let mail = sharing.wait(&mut Errand::default(), Some(me));
    mail.iter().for_each(|mail| sharing.served(me, mail));
    mail
}

#[test]
fn a_page_is_either_written_or_executed() {
    let sharing = with(&[0, 1]);
    assert!(sharing.may_write(0, 5));
    assert_eq!(sharing.claim_code(1, 5), 1 << 0, "the writer has to be asked");
    assert!(!sharing.may_write(1, 5) && !sharing.may_write(0, 5));
    assert_eq!(sharing.claim_code(0, 6), 0, "nobody writes the next page");
    sharing.gave_up_code(1, 5);
    assert!(sharing.may_write(1, 5));
}

#[test]
fn whoever_is_parked_is_not_waited_for_and_reads_later() {
    let sharing = with(&[0, 1]);
    assert!(sharing.may_write(1, 5));
    let mut errand = sharing.post(sharing.claim_code(0, 5), Letter::ForbidWrites(5));
    assert!(sharing.wait(&mut errand, Some(0)).is_none());
    assert_eq!(sharing.claim_code(2, 5), 0, "it counts as done");
    assert_eq!(mail(&sharing, 1).expect("a letter waits").letters, [Letter::ForbidWrites(5)]);
    assert!(mail(&sharing, 1).is_none());
}

#[test]
fn a_letter_to_nobody_is_no_wait() {
    let sharing = with(&[0, 1]);
    sharing.claim_code(1, 7);
    sharing.leave(1);
    sharing.wrote(7 * PAGE_SIZE, 1);
    assert!(!sharing.has_code(7));
}

#[test]
fn a_number_is_taken_once_and_there_are_eight() {
    let sharing = with(&[0, 7]);
    assert!(!sharing.join(0, Kicker::default()) && !sharing.join(8, Kicker::default()));
    sharing.claim_code(7, 3);
    sharing.leave(7);
    assert!(sharing.join(7, Kicker::default()));
    assert!(!sharing.has_code(3), "the next of that number begins with nothing");
}

#[test]
fn too_many_letters_become_one_that_says_everything() {
    let sharing = with(&[0]);
    for page in 0..=LETTERS_LIMIT as u32 {
        sharing.claim_code(0, page);
        sharing.wrote(u64::from(page) * PAGE_SIZE, 8);
    }
    let found = mail(&sharing, 0).expect("letters wait");
    assert!(found.everything && found.letters.is_empty());
}

#[test]
fn a_write_reaches_every_page_it_touches() {
    let sharing = with(&[0]);
    for page in [1, 2, 3, 4] {
        sharing.claim_code(0, page);
    }
    sharing.wrote(2 * PAGE_SIZE - 1, PAGE_SIZE + 2);
    assert_eq!([1, 2, 3, 4].map(|page| sharing.has_code(page)), [false, false, false, true]);
    sharing.wrote(4 * PAGE_SIZE, 0);
    assert!(sharing.has_code(4), "nothing was written");
}

/// What a vCPU does: mail first, then work, as long as `work` says so.
fn vcpu(sharing: &Sharing, me: usize, mut work: impl FnMut(&dyn Fn(Errand)) -> bool) {
    let serve = |mut errand: Errand| {
        while let Some(mail) = sharing.wait(&mut errand, Some(me)) {
            for letter in &mail.letters {
                sharing.take_back(me, *letter);
            }
            sharing.served(me, &mail);
        }
    };
    sharing.start(me);
    serve(Errand::default());
    while work(&serve) {
        serve(Errand::default());
    }
    sharing.park(me);
}

#[test]
fn vcpus_that_ask_each_other_all_get_on_and_never_disagree() {
    // Two pages, four vCPUs: each in turn writes one and executes one. `held` is what entries and units would be.
    let sharing = with(&[0, 1, 2, 3]);
    let held: [[AtomicU32; 2]; 2] = Default::default();
    let wrong = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for me in 0..4 {
            let (sharing, held, wrong) = (&sharing, &held, &wrong);
            let mut rounds = 0;
            scope.spawn(move || {
                vcpu(sharing, me, |serve| {
                    let page = rounds / 2 % 2;
                    if (rounds + me as u32).is_multiple_of(2) {
                        if sharing.may_write(me, page) {
                            held[page as usize][0].fetch_add(1, Ordering::SeqCst);
                            // Not served in between: nobody may believe to own the code.
                            let executed = held[page as usize][1].load(Ordering::SeqCst);
                            wrong.fetch_add(executed, Ordering::SeqCst);
                            held[page as usize][0].fetch_sub(1, Ordering::SeqCst);
                        }
                    } else {
                        let others = sharing.claim_code(me, page) & !(1 << me);
                        serve(sharing.post(others, Letter::ForbidWrites(page)));
                        if sharing.owns_code(me, page) {
                            held[page as usize][1].fetch_add(1, Ordering::SeqCst);
                            let written = held[page as usize][0].load(Ordering::SeqCst);
                            wrong.fetch_add(written, Ordering::SeqCst);
                            held[page as usize][1].fetch_sub(1, Ordering::SeqCst);
                        }
                        let others = sharing.code_owners(page) & !(1 << me);
                        sharing.gave_up_code(me, page);
                        serve(sharing.post(others, Letter::DropCode(page)));
                    }
                    rounds += 1;
                    rounds < 3000
                });
            });
        }
    });
    assert_eq!(wrong.into_inner(), 0, "times a page was written and executed");
}

#[test]
fn one_at_a_time_is_alone() {
    let sharing = with(&[0, 1, 2]);
    let alone = AtomicU32::new(0);
    let wrong = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for me in 0..3 {
            let (sharing, alone, wrong) = (&sharing, &alone, &wrong);
            let mut rounds = 0;
            scope.spawn(move || {
                vcpu(sharing, me, |serve| {
                    wrong.fetch_add(alone.load(Ordering::SeqCst), Ordering::SeqCst);
                    if let Some(errand) = sharing.ask_for_stillness(me) {
                        serve(errand);
                        wrong.fetch_add(alone.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                        std::thread::yield_now();
                        alone.fetch_sub(1, Ordering::SeqCst);
                        sharing.end_stillness();
                    }
                    rounds += 1;
                    rounds < 1000
                });
            });
        }
    });
    assert_eq!(wrong.into_inner(), 0, "times somebody else moved");
}
