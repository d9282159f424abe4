//! An agent that takes over what another one left.

use super::*;

/// Everything a new agent knows of an old one: the maps, and the ids of namespaces.
fn take_over(old: Sink<MemoryMaps>) -> Sink<MemoryMaps> {
    let scopes = old.scope_ids();
    let levels = BTreeMap::from([(1, 2), (2, 2)]);
    Sink::restore(old.maps, roomy(), &scopes, &levels).expect("memory does not fail")
}

fn ids(sink: &Sink<MemoryMaps>) -> BTreeMap<FrontendKey, u32> {
    sink.maps.contents().expect("memory does not fail").frontends.into_iter().collect()
}

proptest! {
    #[test]
    fn clients_meet_the_same_before_and_after_a_restart(before in any_tables(), after in any_tables()) {
        let mut old = Sink::new(MemoryMaps::new(roomy()), roomy());
        old.enrol(1, in_namespace("one")).expect("there is room");
        old.enrol(2, in_namespace("two")).expect("there is room");
        prop_assert_eq!(old.apply(diff(&Tables::default(), &before)), []);
        let old_ids = ids(&old);

        let mut new = take_over(old);
        assert_clients_meet(&new.maps, &before)?;
        prop_assert_eq!(new.workloads().count(), 2);

        new.adopt(&before);
        assert_clients_meet(&new.maps, &before)?;
        prop_assert_eq!(new.apply(diff(&new.actual, &before)), []);
        assert_clients_meet(&new.maps, &before)?;
        prop_assert_eq!(ids(&new), old_ids, "services keep their ids");

        let mut newer = take_over(new);
        newer.adopt(&after);
        prop_assert_eq!(newer.apply(diff(&newer.actual, &after)), []);
        prop_assert_eq!(&newer.actual, &after);
        assert_clients_meet(&newer.maps, &after)?;
        prop_assert_eq!(newer.apply(diff(&newer.actual, &Tables::default())), []);
        assert_all_free(&newer)?;
    }
}

#[test]
fn an_enrolment_of_a_cgroup_that_is_gone_goes() {
    let mut old = Sink::new(MemoryMaps::new(roomy()), roomy());
    old.enrol(1, in_namespace("one")).expect("there is room");
    old.enrol(7, in_namespace("one")).expect("there is room");
    let new = take_over(old);
    assert_eq!(new.workloads().map(|(cgroup, _)| cgroup).collect::<Vec<_>>(), [1]);
    assert!(new.maps.workload(7).is_none());
}
