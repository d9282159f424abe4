//! Who is enrolled, and whether it looks for a view of its own.

use kmesh_se_common::maps::{SCOPE_MESH, WORKLOAD_PRIVATE_VIEW};

use super::*;

fn sink(workloads: u32) -> Sink<Recorder> {
    let capacities = Capacities { workloads, ..roomy() };
    Sink::new(Recorder::new(capacities), capacities)
}

fn has_private_view(sink: &Sink<Recorder>, cgroup: u64) -> bool {
    sink.maps.memory.workload(cgroup).expect("it is enrolled").flags & WORKLOAD_PRIVATE_VIEW != 0
}

fn address_in(namespace: &str, last: u8) -> Address {
    Address {
        scope: Scope::Namespace(Namespace::new(namespace)),
        address: IpAddr::from([240, 240, 0, last]).into(),
    }
}

#[test]
fn a_workload_looks_for_its_own_view_from_the_first_row_to_the_last() -> Result<(), MapError> {
    let mut sink = sink(8);
    sink.enrol(1, in_namespace("one"))?;
    sink.enrol(2, in_namespace("two"))?;
    let pass = AddressRule { unlisted: Unlisted::Pass, sorts_by: None };
    let refuse = AddressRule { unlisted: Unlisted::Refuse, sorts_by: None };
    let (first, second) = (address_in("one", 1), address_in("one", 2));
    sink.apply(vec![MapOp::SetAddress(first.clone(), pass.clone())]);
    assert!(has_private_view(&sink, 1) && !has_private_view(&sink, 2));
    sink.enrol(3, in_namespace("one"))?;
    assert!(has_private_view(&sink, 3), "one that comes later");
    sink.apply(vec![MapOp::SetAddress(second.clone(), pass)]);
    sink.apply(vec![MapOp::SetAddress(second.clone(), refuse)]);
    sink.apply(vec![MapOp::RemoveAddress(first)]);
    assert!(has_private_view(&sink, 1));
    sink.apply(vec![MapOp::RemoveAddress(second)]);
    assert!(!has_private_view(&sink, 1) && !has_private_view(&sink, 3));
    assert_eq!(sink.maps.wrong, [""; 0]);
    Ok(())
}

#[test]
fn namespaces_have_scopes_that_last_and_none_is_the_meshs() -> Result<(), MapError> {
    let mut sink = sink(8);
    for (cgroup, namespace) in [(1, "one"), (2, "two"), (3, "one")] {
        sink.enrol(cgroup, in_namespace(namespace))?;
    }
    let scope = |cgroup| sink.maps.memory.workload(cgroup).expect("it is enrolled").scope;
    assert_eq!((scope(1), scope(2), scope(3)), (1, 2, 1));
    assert_eq!(sink.namespace_of(2), Some(&Namespace::new("two")));
    assert_eq!(sink.namespace_of(SCOPE_MESH), None);
    Ok(())
}

#[test]
fn an_exempt_cgroup_is_not_handled() -> Result<(), MapError> {
    let mut sink = sink(8);
    sink.enrol(1, in_namespace("one"))?;
    sink.apply(vec![MapOp::SetAddress(
        Address { scope: Scope::Mesh, address: IpAddr::from([240, 240, 0, 1]).into() },
        AddressRule { unlisted: Unlisted::Refuse, sorts_by: None },
    )]);
    let connect =
        |sink: &Sink<Recorder>| sink.maps.memory.connect(1, IpAddr::from([240, 240, 0, 1]), 80, TCP);
    assert_eq!(connect(&sink), Outcome::Refused);
    sink.enrol(1, Enrolment { level: 2, namespace: None, dns_port: 0 })?;
    assert_eq!(connect(&sink), Outcome::Passes);
    sink.unenrol(1)?;
    assert_eq!(sink.maps.memory.workload(1), None);
    sink.unenrol(1)?;
    assert_eq!(sink.maps.wrong, [""; 0]);
    Ok(())
}

#[test]
fn the_depths_are_those_of_enrolled_cgroups_and_few() -> Result<(), MapError> {
    let mut sink = sink(32);
    let at = |level| Enrolment { level, ..in_namespace("one") };
    for level in 1..=8 {
        sink.enrol(u64::from(level), at(level))?;
    }
    sink.enrol(20, at(3))?;
    assert_eq!(sink.maps.memory.levels(), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(sink.enrol(9, at(9)), Err(MapError::Levels));
    assert_eq!(sink.workloads().count(), 9);
    sink.unenrol(3)?;
    assert_eq!(sink.maps.memory.levels(), [8, 7, 6, 5, 4, 3, 2, 1], "another is still there");
    sink.unenrol(20)?;
    assert_eq!(sink.maps.memory.levels(), [8, 7, 6, 5, 4, 2, 1]);
    sink.enrol(9, at(9))?;
    assert_eq!(sink.maps.memory.levels(), [9, 8, 7, 6, 5, 4, 2, 1]);
    sink.enrol(9, at(10))?;
    assert_eq!(sink.maps.memory.levels(), [10, 8, 7, 6, 5, 4, 2, 1], "its own old depth does not count");
    Ok(())
}

#[test]
fn a_full_map_refuses_one_more_and_takes_it_when_there_is_room() -> Result<(), MapError> {
    let mut sink = sink(1);
    sink.enrol(1, in_namespace("one"))?;
    let error = sink.enrol(2, Enrolment { level: 5, ..in_namespace("one") }).expect_err("it is full");
    assert_eq!(
        error.to_string(),
        "map kmse_enrol is full (1 elements): start the agent with a larger --max-workloads"
    );
    assert_eq!((sink.workloads().count(), sink.maps.memory.levels()), (1, &[2][..]));
    sink.enrol(1, in_namespace("two"))?;
    sink.unenrol(1)?;
    sink.enrol(2, in_namespace("one"))
}

#[test]
fn a_removal_that_the_kernel_refuses_can_be_tried_again() -> Result<(), MapError> {
    let mut sink = sink(2);
    sink.enrol(1, in_namespace("one"))?;
    sink.maps.fail_at(&[0].into());
    assert!(sink.unenrol(1).is_err());
    assert_eq!(sink.workloads().count(), 1);
    sink.unenrol(1)?;
    assert_eq!(sink.maps.memory.workload(1), None);
    Ok(())
}
