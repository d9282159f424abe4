use std::{
    fs::File,
    os::fd::{AsFd as _, FromRawFd as _},
};

use super::*;

/// Two cgroups that share a place.
const SHARED: [u64; 2] = [77, 77 + ENROL_PLACES as u64];

fn memory() -> File {
    // SAFETY: a new descriptor, or -1, which `set_len` refuses.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"places".as_ptr(), 0)) };
    file.set_len(u64::from(ENROL_PLACES) * 32).expect("memory");
    file
}

fn workload(id: u32) -> Workload {
    Workload { scope: id + 1, id, flags: 0, dns_port: 53, _pad: 0 }
}

fn write(front: &mut Enrolled, cgroup: u64, id: u32) -> bool {
    let mut has_waited = false;
    front.hide(cgroup).expect("a store");
    let wait = || {
        has_waited = true;
        Ok(())
    };
    front.show(cgroup, workload(id), wait).expect("a store");
    has_waited
}

/// What a program finds in front: none is that it has to ask the hash map.
fn seen(front: &Enrolled, cgroup: u64) -> Option<Option<[u64; 2]>> {
    let at = place(cgroup);
    match front.holder(at) {
        ENROL_ASK => None,
        holder if holder == cgroup => {
            Some(Some(front.workload(at).map(|half| half.expect("a place of the table"))))
        }
        _ => Some(None),
    }
}

#[test]
fn a_cgroup_is_found_in_front_until_it_is_removed() {
    let memory = memory();
    let mut front = Enrolled::new(memory.as_fd(), &[]).expect("a table");
    assert!(!write(&mut front, 5, 1));
    assert_eq!(seen(&front, 5), Some(Some(halves(workload(1)))));
    assert_eq!(seen(&front, 6), Some(None));
    front.removed(5).expect("a store");
    assert_eq!(seen(&front, 5), Some(None));
}

#[test]
fn a_workload_is_replaced_only_after_a_grace_period() {
    let memory = memory();
    let mut front = Enrolled::new(memory.as_fd(), &[]).expect("a table");
    write(&mut front, 5, 1);
    front.hide(5).expect("a store");
    assert_eq!(seen(&front, 5), None);
    assert!(write(&mut front, 5, 2));
    assert_eq!(seen(&front, 5), Some(Some(halves(workload(2)))));
}

#[test]
fn cgroups_that_share_a_place_are_asked_for_until_both_are_gone() {
    let memory = memory();
    let mut front = Enrolled::new(memory.as_fd(), &[]).expect("a table");
    for (cgroup, id) in SHARED.into_iter().zip(1..) {
        write(&mut front, cgroup, id);
    }
    assert_eq!(SHARED.map(|cgroup| seen(&front, cgroup)), [None, None]);
    front.removed(SHARED[0]).expect("a store");
    assert_eq!(seen(&front, SHARED[1]), None);
    front.removed(SHARED[1]).expect("a store");
    assert_eq!(seen(&front, SHARED[1]), Some(None));
}

#[test]
fn what_an_earlier_agent_left_half_done_is_asked_for() {
    let memory = memory();
    let mut front = Enrolled::new(memory.as_fd(), &[]).expect("a table");
    for (cgroup, id) in [(1, 1), (2, 2), (3, 3), (SHARED[0], 4)] {
        write(&mut front, cgroup, id);
    }
    // 1 is as it was, 2 was replaced and 3 removed in the hash map only, 4 and one that shares a place were written there only.
    let rows = [
        (1, workload(1)),
        (2, workload(9)),
        (4, workload(4)),
        (SHARED[0], workload(4)),
        (SHARED[1], workload(5)),
    ];
    let front = Enrolled::new(memory.as_fd(), &rows).expect("a table");
    assert_eq!(seen(&front, 1), Some(Some(halves(workload(1)))));
    assert_eq!(seen(&front, 3), Some(None));
    assert_eq!([2, 4, SHARED[0], SHARED[1]].map(|cgroup| seen(&front, cgroup)), [None; 4]);
}
